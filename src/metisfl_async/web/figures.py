"""What the page shows of a round: small, however many learners were in it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from metisfl_async.core.federation.records import SPENT, LearnerRecord, RoundRecord
from metisfl_async.core.federation.tasks import TaskState
from metisfl_async.core.metrics import NUM_EXAMPLES, Json
from metisfl_async.web.codes import code_of

__all__ = ["NAMED", "Figures"]

NAMED = 32  #: learners whose metrics are lines of their own; of more, the page shows where most of them are
MOST_NOTES = 100  #: of what a rule says about learners, in one round
MOST_STALE = 100  #: dots of one record

_FIRST = {name: place for place, name in enumerate(("loss", "accuracy"))}  #: of the charts; the others by name


class Figures:
    """Sums up a record, one learner's part after another."""

    def __init__(self, record: RoundRecord) -> None:
        self._record = record
        self._counted = self._failed = 0
        self._metrics: dict[str, dict[int, float]] = {}  # of learners, by name and learner
        self._notes: list[tuple[str, str]] = []
        self._stale: list[list[float]] = []

    def add(self, number: int, learner: str, part: LearnerRecord) -> None:
        """Take in the part of a learner; it has this number."""
        self._counted += part.train_state == TaskState.COUNTED.value
        self._failed += bool(part.failures)
        for name, value in (part.train_metrics | part.evaluation_metrics).items():
            if name != NUM_EXAMPLES and math.isfinite(value):
                self._metrics.setdefault(name, {})[number] = value
        said = dict(part.rule_notes)
        if part.is_global or part.twin is not None:
            said["repeats"] = part.twin or "the global model"
        if said and len(self._notes) < MOST_NOTES:
            self._notes.append((learner, ", ".join(f"{name}: {_text(value)}" for name, value in said.items())))
        is_dot = not self._record.in_rounds and part.ended_ms is not None
        if is_dot and len(self._stale) < MOST_STALE:
            self._stale.append([round(part.ended_ms or 0.0, 1), part.staleness])

    def cell(self, part: LearnerRecord) -> str:
        """Say in one character what became of a learner's training, and how soon."""
        if part.train_state != TaskState.COUNTED.value:
            return code_of(part.train_state)
        if part.sent_ms is None or part.ended_ms is None or self._record.train_ms <= 0:
            return "0"
        return str(min(int(10 * (part.ended_ms - part.sent_ms) / self._record.train_ms), 9))

    def value(self, num_learners: int) -> dict[str, Any]:
        """Give the row."""
        record = self._record
        is_published, duration_ms = record.is_published, record.duration_ms
        number = str(record.number) + ("" if is_published else f" (no model: {record.failure or 'too few updates'})")
        memory = max(record.aggregation_block_memory_kb, default=0.0) * 1024
        return {
            "number": record.number,
            "at": round(record.started_ms, 1),
            "end": round(record.started_ms + duration_ms, 1),
            "published": is_published,
            "told": [number, f"{self._counted} of {len(record.learners)}", self._failed, round(duration_ms / 1e3, 3)],
            "metrics": self._lines(num_learners),
            "traffic": {
                "bytes": {"sent": record.bytes_sent, "received": record.bytes_received},
                "memory": {"updates": memory},
            },
            "stale": self._stale,
            "notes": self._notes,
        }

    def _lines(self, num_learners: int) -> dict[str, dict[Any, float]]:
        """Give the values of the lines of each metric.

        Lines are means, and a learner's by its number; of many learners, the page shows where eight tenths are.
        """
        lines: dict[str, dict[Any, float]] = {}
        for name, of_learner in self._metrics.items():
            if num_learners > NAMED:
                low, high = np.quantile(list(of_learner.values()), [0.1, 0.9])
                lines[name] = {"low": float(low), "high": float(high)}
            elif num_learners > 1:
                lines[name] = dict(of_learner)
        record = self._record
        means = {"train": record.train_metrics, "evaluation": record.evaluation_metrics, "central": record.central}
        for line, metrics in means.items():
            for name in metrics.keys() - {NUM_EXAMPLES}:
                lines.setdefault(name, {})[line] = metrics[name]
        if record.privacy:
            lines[SPENT] = {"spent": record.privacy["epsilon"]}
        return dict(sorted(lines.items(), key=lambda item: (_FIRST.get(item[0], len(_FIRST)), item[0])))


def _text(value: Json) -> str:
    """Write what a rule says of an update."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
