"""When a federation ends."""

from __future__ import annotations

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.federation.records import RoundRecord

__all__ = ["cutoff_s", "reason_to_stop"]


def reason_to_stop(signals: TerminationSignals, num_published: int, latest: RoundRecord) -> str | None:
    """Say which signal has been reached; None to go on.

    Time is not looked at here: `cutoff_s` is a timer.
    """
    for name, limit in (
        ("federation_rounds", signals.federation_rounds),
        ("global_updates", signals.global_updates),
    ):
        if limit is not None and num_published >= limit:
            return f"{name}={limit} reached"
    metric, cutoff = signals.evaluation_metric, signals.evaluation_metric_cutoff_score
    if metric is None or cutoff is None or metric not in latest.evaluation_metrics:
        return None
    score = latest.evaluation_metrics[metric]
    is_reached = score >= cutoff if signals.mode == "max" else score <= cutoff
    return f"{metric}={score:.6g} reached evaluation_metric_cutoff_score={cutoff:g}" if is_reached else None


def cutoff_s(signals: TerminationSignals) -> float | None:
    """Seconds of training after which the federation ends; None for no such limit."""
    minutes = signals.execution_cutoff_time_mins
    return None if minutes is None else minutes * 60.0
