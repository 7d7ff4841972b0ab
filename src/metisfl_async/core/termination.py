"""When a federation ends."""

from __future__ import annotations

from collections.abc import Sequence

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.records import RoundRecord

__all__ = ["cutoff_s", "reason_to_stop"]


def reason_to_stop(signals: TerminationSignals, records: Sequence[RoundRecord]) -> str | None:
    """Say which signal the rounds so far have reached; None to go on.

    Time is not looked at here: `cutoff_s` is a timer.
    """
    published = sum(record.is_published for record in records)
    if signals.federation_rounds is not None and published >= signals.federation_rounds:
        return f"federation_rounds={signals.federation_rounds} reached"
    metric, cutoff = signals.evaluation_metric, signals.evaluation_metric_cutoff_score
    if metric is None or cutoff is None or not records or metric not in records[-1].evaluation_metrics:
        return None
    score = records[-1].evaluation_metrics[metric]
    is_reached = score >= cutoff if signals.mode == "max" else score <= cutoff
    return f"{metric}={score:.6g} reached evaluation_metric_cutoff_score={cutoff:g}" if is_reached else None


def cutoff_s(signals: TerminationSignals) -> float | None:
    """Seconds of training after which the federation ends; None for no such limit."""
    minutes = signals.execution_cutoff_time_mins
    return None if minutes is None else minutes * 60.0
