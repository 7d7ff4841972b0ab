"""When a federation ends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.metrics import Metrics

__all__ = ["cutoff_s", "reason_to_stop"]


def reason_to_stop(
    signals: TerminationSignals,
    num_published: int,
    latest: RoundRecord,
    config: ControllerConfig,
    evaluations: Iterable[Metrics],
) -> str | None:
    """Say which signal has been reached; None to go on.

    Time is not looked at here: `cutoff_s` is a timer. `evaluations` are what each learner has measured; one of them may
    lie, so `ControllerConfig.cutoff_score` says which score counts.
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
    what, score = metric, latest.evaluation_metrics[metric]
    if config.cutoff_score != "mean":
        # Whatever is no number is no score; the best come first.
        scores = [metrics[metric] for metrics in evaluations if not math.isnan(metrics.get(metric, math.nan))]
        scores.sort(reverse=signals.mode == "max")
        quorum = config.min_learners
        if not scores or (config.cutoff_score == "quorum" and len(scores) < quorum):
            return None
        if config.cutoff_score == "median":
            what, score = f"the median of {metric}", statistics.median(scores)
        else:
            what, score = f"the {metric} of {quorum} learners", scores[quorum - 1]
    is_reached = score >= cutoff if signals.mode == "max" else score <= cutoff
    return f"{what}={score:.6g} reached evaluation_metric_cutoff_score={cutoff:g}" if is_reached else None


def cutoff_s(signals: TerminationSignals) -> float | None:
    """Seconds of training after which the federation ends; None for no such limit."""
    minutes = signals.execution_cutoff_time_mins
    return None if minutes is None else minutes * 60.0
