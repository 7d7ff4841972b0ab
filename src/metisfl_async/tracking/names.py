"""What a round's numbers are called, wherever they are tracked."""

from __future__ import annotations

from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.metrics import Metrics

__all__ = ["by_learner", "ended_at", "of_learner", "of_learners", "of_round"]


def of_round(record: RoundRecord) -> Metrics:
    """Name the means of a round, and what it cost: "train/loss", "evaluation/accuracy", "system/bytes_sent"."""
    return {
        **_under("train", record.train_metrics),
        **_under("evaluation", record.evaluation_metrics),
        **_under("central", record.central),
        **({"privacy/epsilon": record.privacy["epsilon"]} if record.privacy else {}),
        "system/duration_secs": record.duration_ms / 1e3,
        "system/aggregation_secs": record.aggregation_ms / 1e3,
        "system/bytes_sent": record.bytes_sent,
        "system/bytes_received": record.bytes_received,
        "system/updates": len(record.participants),
        "system/learners": record.num_learners,
        "system/failures": sum(len(part.failures) for part in record.learners.values()),
        "system/staleness": max((part.staleness for part in record.learners.values()), default=0),
    }


def of_learner(part: LearnerRecord) -> Metrics:
    """Name what one learner measured, and what it took: "train/loss", "evaluation/accuracy", "system/train_secs"."""
    times = {"train": part.train_ms, "upload": part.staging_ms, "evaluation": part.evaluation_ms}
    return {
        **_under("train", part.train_metrics),
        **_under("evaluation", part.evaluation_metrics),
        **{f"system/{name}_secs": ms / 1e3 for name, ms in times.items() if ms is not None},
        "system/bytes_sent": part.bytes_sent,
        "system/bytes_received": part.bytes_received,
        "system/staleness": part.staleness,
    }


def by_learner(record: RoundRecord) -> dict[str, Metrics]:
    """Name those of each learner; of one below a relay, "north/site-1", what it measured."""
    below = {name: metrics for name, metrics in record.evaluations.items() if name not in record.learners}
    return {learner: of_learner(part) for learner, part in record.learners.items()} | {
        name: _under("evaluation", metrics) for name, metrics in below.items()
    }


def of_learners(record: RoundRecord) -> Metrics:
    """Name those of all learners: "learner/site-1/train/loss"."""
    return {
        f"learner/{learner}/{name}": value
        for learner, values in by_learner(record).items()
        for name, value in values.items()
    }


def ended_at(record: RoundRecord) -> float:
    """Say when all of a round was known, in seconds since the epoch."""
    return record.started_at + record.duration_ms / 1e3


def _under(group: str, metrics: Metrics) -> Metrics:
    return {f"{group}/{name}": value for name, value in metrics.items()}
