"""What must survive of a federation when its controller dies; everything else follows, or is asked for again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import BestScore, RoundRecord
from metisfl_async.core.federation.tasks import Task, TaskKind
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, TaskId
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.strategies.scheduling import Timing

__all__ = ["OpenRound", "OpenTask", "Standing", "of_task"]


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task whose outcome is awaited, or is in a sum that dies with the controller."""

    id: TaskId
    kind: TaskKind
    learner: LearnerId
    model_version: int
    config: dict[str, Json]


def of_task(task: Task) -> OpenTask:
    """Say what of a task must survive."""
    return OpenTask(task.id, task.kind, task.learner, task.model_version, task.config)


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round whose record is not complete."""

    record: RoundRecord
    tasks: list[OpenTask] = field(default_factory=list)  #: none once it is published


@dataclass(slots=True)
class Standing:
    """Where a federation stands.

    It is written together with each global model, and when a round opens. The model's version is not in it: it is that
    of the model that it is written with.
    """

    federation_id: FederationId = NO_FEDERATION
    config: dict[str, Json] = field(default_factory=dict)  #: what of the configuration must stay the same
    signals: TerminationSignals | None = None  #: None until it is started
    started_at: float = 0.0  #: when that was, in seconds since the epoch
    evaluates: bool = False  #: whether the driver evaluates each global model
    first_weights: str = ""  #: where they came from
    num_learners: int = 1  #: for how many it waits before it begins
    num_published: int = 0
    failed_rounds: int = 0  #: in a row, for want of updates
    failed_models: int = 0  #: in a row, that could not be published
    best_score: float | None = None  #: of the metric that `signals` names
    best_at: int = 0  #: how many models were published when it was reached
    best: BestScore | None = None  #: of the model that is kept beside the latest
    elapsed_s: float | None = None  #: seconds since enough learners were there for the first time
    present: list[LearnerId] = field(default_factory=list)  #: have joined, and are not given up
    reported: set[LearnerId] = field(default_factory=set)  #: those present that have reported at least once
    weights: dict[str, float] = field(default_factory=dict)  #: last known scaling factors
    timings: dict[LearnerId, Timing] = field(default_factory=dict)  #: of the latest training tasks
    evaluations: dict[LearnerId, tuple[float, Metrics]] = field(default_factory=dict)  #: each one's latest
    counted: dict[LearnerId, list[TaskId]] = field(default_factory=dict)  #: each learner's latest
    seed: int = 0  #: from which those of tasks are derived
    strategies: dict[str, Json] = field(default_factory=dict)  #: of the generator, the scheduler and the selector
    rounds: list[OpenRound] = field(default_factory=list)  #: that are not complete, oldest first
    note: str = ""  #: of whoever leads it, on the latest round
    durable_every: int = 1  #: every how many-th global model was saved
    is_finished: bool = False
    reason: str = ""  #: why it is finished
    ending: Ending | None = None  #: the same as a code

    def to_json(self) -> str:
        """Write it down; `from_json` takes it back."""
        rounds = [{"record": of.record.to_dict(), "tasks": [asdict(task) for task in of.tasks]} for of in self.rounds]
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "rounds"} | {
            "signals": asdict(self.signals) if self.signals else None,
            "best": asdict(self.best) if self.best else None,
            "reported": sorted(self.reported),
            "timings": {learner: asdict(timing) for learner, timing in self.timings.items()},
        }
        return json.dumps(facts | {"rounds": rounds})

    @classmethod
    def from_json(cls, text: str) -> Standing:
        """Take what `to_json` wrote."""
        facts: dict[str, Any] = json.loads(text)
        signals, best = facts["signals"], facts.get("best")
        return cls(
            **facts
            | {
                "signals": TerminationSignals(**signals) if signals else None,
                "best": BestScore(**best) if best else None,
                "ending": Ending(facts["ending"]) if facts["ending"] else None,
                "reported": set(facts["reported"]),
                "timings": {learner: Timing(**timing) for learner, timing in facts["timings"].items()},
                "evaluations": {
                    learner: (weight, metrics) for learner, (weight, metrics) in facts["evaluations"].items()
                },
                "rounds": [
                    OpenRound(
                        RoundRecord.from_dict(of["record"]),
                        [OpenTask(**task | {"kind": TaskKind(task["kind"])}) for task in of["tasks"]],
                    )
                    for of in facts["rounds"]
                ],
            }
        )
