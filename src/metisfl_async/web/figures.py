"""What the page shows of a round: small, however many learners were in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.federation.tasks import TaskState
from metisfl_async.core.metrics import NUM_EXAMPLES

__all__ = ["NAMED", "Figures"]

NAMED = 32  #: learners whose metrics are lines of their own; of more, the page shows where most of them are
MOST_NOTES = 100  #: of what a rule says about learners, in one round
MOST_STALE = 100  #: dots of one record

#: One character for a learner in a round. Digits: counted, after so many tenths of the round.
_CELLS = {
    TaskState.FOLDED.value: "f",
    TaskState.FAILED.value: "F",
    TaskState.LOST.value: "X",
    TaskState.EXPIRED.value: "E",
    TaskState.LATE.value: "L",
    TaskState.CANCELLED.value: "C",
    TaskState.REJECTED.value: "R",
}


class Figures:
    """Sums up a record, one learner's part after another."""

    def __init__(self, record: RoundRecord) -> None:
        self._record = record
        self._counted = self._failed = 0
        self._metrics: dict[str, dict[int, float]] = {}  # of learners, by name and learner
        self._notes: list[list[Any]] = []
        self._stale: list[list[float]] = []

    def add(self, number: int, part: LearnerRecord) -> None:
        """Take in the part of the learner with this number."""
        self._counted += part.train_state == TaskState.COUNTED.value
        self._failed += bool(part.failures)
        for name, value in (part.train_metrics | part.evaluation_metrics).items():
            if name != NUM_EXAMPLES and math.isfinite(value):
                self._metrics.setdefault(name, {})[number] = value
        said = dict(part.rule_notes)
        if part.is_global or part.twin is not None:
            said["repeats"] = part.twin or "the global model"
        if said and len(self._notes) < MOST_NOTES:
            self._notes.append([number, said])
        is_dot = not self._record.in_rounds and part.ended_ms is not None
        if is_dot and len(self._stale) < MOST_STALE:
            self._stale.append([round(part.ended_ms or 0.0, 1), part.staleness])

    def cell(self, part: LearnerRecord) -> str:
        """Say in one character what became of a learner's training, and how soon."""
        if part.train_state != TaskState.COUNTED.value:
            return _CELLS.get(part.train_state, ".")
        if part.sent_ms is None or part.ended_ms is None or self._record.train_ms <= 0:
            return "0"
        return str(min(int(10 * (part.ended_ms - part.sent_ms) / self._record.train_ms), 9))

    def value(self, num_learners: int) -> dict[str, Any]:
        """Give the row."""
        record = self._record
        return {
            "number": record.number,
            "at": round(record.started_ms, 1),
            "end": round(record.started_ms + record.duration_ms, 1),
            "published": record.is_published,
            "failure": record.failure,
            "asked": len(record.learners),
            "counted": self._counted,
            "failed": self._failed,
            "train": record.train_metrics,
            "evaluation": record.evaluation_metrics,
            "central": record.central,
            "sent": record.bytes_sent,
            "received": record.bytes_received,
            "memory": max(record.aggregation_block_memory_kb, default=0.0) * 1024,
            "stale": self._stale,
            "notes": self._notes,
            "each": {name: self._each(of, num_learners) for name, of in self._metrics.items()},
        }

    def _each(self, values: dict[int, float], num_learners: int) -> Any:
        """Give pairs of a learner's number and its value or, of many learners, where the middle eight tenths are."""
        if num_learners <= NAMED:
            return [[number, value] for number, value in values.items()]
        return {"spread": [float(value) for value in np.quantile(list(values.values()), [0.1, 0.9])]}
