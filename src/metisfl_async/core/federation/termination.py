"""When a federation ends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Literal, TypeAlias

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.metrics import Metrics

__all__ = ["cutoff_s", "is_better", "reason_to_stop", "score_of"]

Mode: TypeAlias = Literal["max", "min"]


def reason_to_stop(
    signals: TerminationSignals,
    standing: Standing,
    latest: RoundRecord,
    config: ControllerConfig,
    evaluations: Iterable[Metrics],
) -> tuple[str, Ending] | None:
    """Say which signal has been reached, and note in `standing` the best score so far; None to go on.

    Time is not looked at here: `cutoff_s` is a timer. `evaluations` are what each learner has measured.
    """
    for ending, limit in (
        (Ending.FEDERATION_ROUNDS, signals.federation_rounds),
        (Ending.GLOBAL_UPDATES, signals.global_updates),
    ):
        if limit is not None and standing.num_published >= limit:
            return f"{ending}={limit} reached", ending
    spent = latest.privacy
    if spent.get("next_epsilon", 0.0) > spent.get("max_epsilon", math.inf):
        left = f"epsilon={spent['epsilon']:.6g} is spent, and another model would make it {spent['next_epsilon']:.6g}"
        return f"max_epsilon={spent['max_epsilon']:g} reached: {left}", Ending.MAX_EPSILON
    if signals.evaluation_metric is None:
        return None
    if (scored := score_of(signals.evaluation_metric, signals.mode, latest, config, evaluations)) is not None:
        what, score = scored
        cutoff, sign = signals.evaluation_metric_cutoff_score, 1.0 if signals.mode == "max" else -1.0
        if cutoff is not None and sign * (score - cutoff) >= 0:
            return f"{what}={score:.6g} reached evaluation_metric_cutoff_score={cutoff:g}", Ending.CUTOFF_SCORE
        if is_better(score, standing.best_score, signals.mode, signals.min_delta):
            standing.best_score, standing.best_at = score, standing.num_published
    patience, waited = signals.patience_rounds, standing.num_published - standing.best_at
    if patience is not None and standing.best_score is not None and waited >= patience:
        best_was = f"{signals.evaluation_metric}={standing.best_score:.6g}, after {standing.best_at} models"
        return f"patience_rounds={patience} reached; the best was {best_was}", Ending.PATIENCE
    return None


def is_better(score: float, than: float | None, mode: Mode, min_delta: float = 0.0) -> bool:
    """Say whether a score is better by more than `min_delta`; NaN never is."""
    sign = 1.0 if mode == "max" else -1.0
    return not math.isnan(score) and (than is None or sign * (score - than) > min_delta)


def score_of(
    metric: str, mode: Mode, latest: RoundRecord, config: ControllerConfig, evaluations: Iterable[Metrics]
) -> tuple[str, float] | None:
    """Give the score that counts, and what it is; one learner may lie, so `cutoff_score` says which."""
    measured = latest.scores()
    if metric not in measured:
        return None
    if config.cutoff_score == "mean" or metric not in latest.evaluation_metrics:
        return metric, measured[metric]
    # Whatever is no number is no score; the best come first.
    scores = [metrics[metric] for metrics in evaluations if not math.isnan(metrics.get(metric, math.nan))]
    scores.sort(reverse=mode == "max")
    quorum = config.min_learners
    if not scores or (config.cutoff_score == "quorum" and len(scores) < quorum):
        return None
    if config.cutoff_score == "median":
        return f"the median of {metric}", statistics.median(scores)
    return f"the {metric} of {quorum} learners", scores[quorum - 1]


def cutoff_s(signals: TerminationSignals) -> float | None:
    """Seconds of training after which the federation ends; None for no such limit."""
    minutes = signals.execution_cutoff_time_mins
    return None if minutes is None else minutes * 60.0
