"""What a federation leaves behind: a record for each round, with one part for each learner of its cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metisfl_async.core.config.signals import CENTRAL
from metisfl_async.core.federation.evaluation import Evaluation, mean_of, summed_up
from metisfl_async.core.federation.tables import html_table, shown
from metisfl_async.core.metrics import Json, Metrics, weighted_means
from metisfl_async.core.strategies.aggregation.contributors import Contributor, counts_of, evaluators_in
from metisfl_async.core.texts import MAX_NAME, plain

__all__ = ["SPENT", "BestScore", "Failure", "LearnerRecord", "RoundRecord"]

SPENT = "privacy spent: epsilon"  #: the title of its charts


@dataclass(frozen=True, slots=True)
class BestScore:
    """Which of a federation's global models scored best, by `ControllerConfig.best_metric`."""

    metric: str
    score: float
    model_version: int
    round_number: int  #: that made the model, and measured it


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a learner's task did not count."""

    task: str  #: "train", "evaluate" or "get_weights"
    type: str  #: the exception's class, or the state in which the task ended
    message: str


@dataclass(slots=True, repr=False)
class LearnerRecord:
    """One learner's part in a round. Times are milliseconds, sizes bytes on the wire."""

    train_task_id: str = ""  #: 32 hexadecimal digits
    train_state: str = "pending"  #: "counted" if its update is in the model; "folded" if none came of the round
    weight: float | None = None  #: the scaling factor of its update
    num_relayed: int | None = None  #: of a relay: how many learners' updates are in its own
    staleness: int = 0  #: global models published between the one that it trained and the one that it is in
    sent_ms: float | None = None  #: when the training task was offered, the last time, since the federation started
    acknowledge_ms: float | None = None  #: from offering the task to its acknowledgement
    fetch_ms: float | None = None  #: from the acknowledgement until the model was sent; None: it had the model
    train_ms: float | None = None  #: from the acknowledgement to the first frame of the update
    staging_ms: float | None = None  #: from the first frame to the last
    aggregation_ms: float | None = None  #: checking and folding the update
    ended_ms: float | None = None  #: when the training task was over, counted or not, since the federation started
    update_norm: float | None = None  #: of what its update changes of the global model, in all tensors of floats
    update_cosine: float | None = None  #: of that to the mean of all updates of the model; -1 to 1, off by a few 0.01
    is_global: bool = False  #: whether its update is the global model, as it was
    twin: str | None = None  #: who sent the same update before, for the same model
    rule_notes: dict[str, Json] = field(default_factory=dict)  #: what the rule did with its update, where it says so
    evaluation_task_id: str = ""  #: empty if it was not asked to evaluate
    evaluation_sent_ms: float | None = None  #: when that was offered, since the federation started
    evaluation_ms: float | None = None  #: from offering the evaluation to its result
    bytes_sent: int = 0  #: to the learner
    bytes_received: int = 0  #: from the learner
    train_metrics: Metrics = field(default_factory=dict)
    train_metadata: dict[str, Json] = field(default_factory=dict)
    evaluation_metrics: Metrics = field(default_factory=dict)
    evaluation_metadata: dict[str, Json] = field(default_factory=dict)  #: of a relay: what those below it measured
    evaluated_version: int | None = None  #: which model those are of; without rounds maybe newer than the record's
    failures: list[Failure] = field(default_factory=list)

    def __repr__(self) -> str:
        parts = [self.train_state] + ([f"weight {self.weight:g}"] if self.weight is not None else [])
        parts += [f"train {plain(name, MAX_NAME)} {value:.4g}" for name, value in self.train_metrics.items()]
        parts += [f"evaluation {plain(name, MAX_NAME)} {value:.4g}" for name, value in self.evaluation_metrics.items()]
        parts += [plain(f"{failure.task} failed: {failure.type}: {failure.message}") for failure in self.failures]
        return f"<LearnerRecord: {', '.join(parts)}>"

    def evaluators(self, name: str, weight: float) -> dict[str, Contributor]:
        """Say who evaluated: the learner of this name, or those below it; `weight` is its last known scaling factor."""
        if below := evaluators_in(self.evaluation_metadata):
            return {f"{name}/{each}": evaluator for each, evaluator in below.items()}
        if not self.evaluation_metrics:
            return {}
        weight = self.weight or weight  # of a learner that has left since, there is only the one here
        return {name: Contributor(weight, self.num_relayed or 1, self.evaluation_metrics)}

    def to_dict(self) -> dict[str, Any]:
        """Give JSON-like data."""
        return _shallow(self) | {"failures": [_shallow(failure) for failure in self.failures]}


@dataclass(slots=True, repr=False)
class RoundRecord:
    """One round. Times are milliseconds, sizes bytes on the wire."""

    number: int  #: from 1; a round without quorum is tried again under the same number; without rounds: the version
    model_version: int  #: of the model that the cohort trained
    is_published: bool = False  #: whether a new global model came of it
    failure: str = ""  #: why the model that was made of its updates, if one was, could not be published
    in_rounds: bool = True  #: False under a scheduler without rounds: this is the record of a model
    started_at: float = field(default=0.0, compare=False)  #: seconds since the epoch, on the controller's clock
    started_ms: float = 0.0  #: since the federation started
    selection_ms: float = 0.0  #: choosing the cohort, and fetching stored updates that are in the mean too
    duration_ms: float = 0.0
    dispatch_ms: float = 0.0  #: until the last training task was acknowledged
    train_ms: float = 0.0  #: until the last update was counted or given up
    aggregation_ms: float = 0.0  #: folding all updates, and making the mean
    evaluation_dispatch_ms: float = 0.0  #: from the new global model until the last evaluation was acknowledged
    evaluation_ms: float = 0.0  #: from the new global model until the last evaluation was over
    bytes_sent: int = 0
    bytes_received: int = 0
    aggregation_block_size: list[int] = field(default_factory=list)  #: updates folded; a block is a stride, or all
    aggregation_block_duration_ms: list[float] = field(default_factory=list)  #: checking and folding them
    aggregation_block_memory_kb: list[float] = field(default_factory=list)  #: updates in memory at a time, at most
    participants: list[str] = field(default_factory=list)  #: learners whose updates are in the published model
    train_metrics: Metrics = field(default_factory=dict)  #: means weighted by the scaling factors
    evaluation_metrics: Metrics = field(default_factory=dict)  #: means, weighted by ...
    evaluation_weighted_by: str = ""  #: ... "num_examples" if all say it, "scaling_factor", or "nothing": all alike
    central: Metrics = field(default_factory=dict)  #: of the new global model, as the session's `evaluate` measured it
    privacy: dict[str, float] = field(default_factory=dict)  #: spent so far: "epsilon", "delta", ...; {} = no promise
    learners: dict[str, LearnerRecord] = field(default_factory=dict)  #: the cohort

    def __repr__(self) -> str:
        return f"<RoundRecord: {self._unit} {self.number}: {plain(self.summary())}>"

    def _repr_html_(self) -> str:
        """Show a row for each learner, in notebooks."""
        parts = self.learners.values()
        trained = sorted({name for part in parts for name in part.train_metrics})
        evaluated = sorted({name for part in parts for name in part.evaluation_metrics})
        columns = ["learner", "state", "weight", *(f"train {name}" for name in trained), *evaluated, "failed"]
        rows = (
            [
                *(learner, part.train_state, shown(part.weight)),
                *(shown(part.train_metrics.get(name)) for name in trained),
                *(shown(part.evaluation_metrics.get(name)) for name in evaluated),
                "; ".join(f"{failure.task}: {failure.type}: {failure.message}" for failure in part.failures),
            ]
            for learner, part in self.learners.items()
        )
        return html_table(f"{self._unit} {self.number}: {self.summary()}", columns, rows)

    @property
    def _unit(self) -> str:
        return "round" if self.in_rounds else "model"

    def close(self, weights: Mapping[str, float], evaluation: Evaluation | None = None) -> None:
        """Sum up over the learners; `weights` are the last known scaling factors.

        The mean evaluation is `evaluation`, or that of this round's learners.
        """
        parts = self.learners
        self.bytes_sent = sum(part.bytes_sent for part in parts.values())
        self.bytes_received = sum(part.bytes_received for part in parts.values())
        self.train_metrics = weighted_means(
            (part.weight, part.train_metrics) for part in parts.values() if part.weight is not None
        )
        if evaluation is None:
            evaluation = mean_of(self.evaluators(weights).values())
        self.evaluation_metrics, self.evaluation_weighted_by = evaluation.metrics, evaluation.weighted_by

    def evaluators(self, weights: Mapping[str, float]) -> dict[str, Contributor]:
        """Say who evaluated, with which scaling factor; `weights` are the last known ones.

        Those below a relay follow its name, "north/site-1".
        """
        found: dict[str, Contributor] = {}
        for learner, part in self.learners.items():
            found |= part.evaluators(learner, weights.get(learner, 0.0))
        return found

    def dialled_evaluators(self, weights: Mapping[str, float]) -> dict[str, Contributor]:
        """Say it of those that are connected here: a relay stands for all below it."""
        parts = {name: part.evaluators(name, weights.get(name, 0.0)) for name, part in self.learners.items()}
        return {name: summed_up(below.values()) for name, below in parts.items() if below}

    @property
    def evaluations(self) -> dict[str, Metrics]:
        """Say what each learner measured; those below a relay follow its name, "north/site-1"."""
        return {name: each.metrics for name, each in self.evaluators({}).items()}

    @property
    def contributors(self) -> dict[str, int]:
        """Say whose updates are in the published model, and for how many learners each one stands.

        Those below a relay follow its name, "north/site-1"; one that is a relay itself stands for all below it.
        """
        counts = dict.fromkeys(self.participants, 1)
        for learner in tuple(counts):
            part = self.learners.get(learner)
            if part is not None and part.num_relayed is not None:
                del counts[learner]
                counts |= {f"{learner}/{name}": count for name, count in counts_of(part.train_metadata).items()}
        return counts

    @property
    def num_learners(self) -> int:
        """Count the updates in the published model; those below relays one by one."""
        return self._count(self.participants)

    def _count(self, learners: Sequence[str]) -> int:
        parts = (self.learners.get(learner) for learner in learners)
        return sum(1 if part is None else part.num_relayed or 1 for part in parts)

    @property
    def was_cut(self) -> bool:
        """Whether the federation ended in the middle of it: nobody had evaluated, and learners were told to stop."""
        failures = (failure for part in self.learners.values() for failure in part.failures)
        return not self.evaluation_metrics and any(failure.type == "cancelled" for failure in failures)

    def scores(self) -> Metrics:
        """Give what a termination signal may name: evaluations, and central ones with "central/" before the name."""
        return self.evaluation_metrics | {f"{CENTRAL}{name}": value for name, value in self.central.items()}

    def summary(self) -> str:
        """Say in one line what came of it."""
        there = self.participants or [name for name, part in self.learners.items() if part.train_state == "folded"]
        num = len(there)  # without rounds, a learner may stand there twice
        others = len(self.learners.keys() - set(there))
        of = f" of {relayed} learners" if (relayed := self._count(there)) != num else ""
        parts = [f"{num} of {num + others} updates{of} in {self.duration_ms / 1e3:.2f} s"]
        if staleness := max((part.staleness for part in self.learners.values()), default=0):
            parts.append(f"staleness {staleness}")
        parts += [f"train {name} {value:.4g}" for name, value in self.train_metrics.items()]
        parts += [f"evaluation {name} {value:.4g}" for name, value in self.evaluation_metrics.items()]
        parts += [f"central {name} {value:.4g}" for name, value in self.central.items()]
        parts += [f"privacy epsilon {self.privacy['epsilon']:.4g}"] if self.privacy else []
        parts += [self.failure] if self.failure else []
        return ", ".join(parts) if self.is_published else "not published: " + ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Give JSON-like data; `from_dict` takes it back."""
        learners = {name: part.to_dict() for name, part in self.learners.items()}
        return _shallow(self) | {"learners": learners}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RoundRecord:
        """Take what `to_dict` gave."""
        learners = {
            name: LearnerRecord(**{**part, "failures": [Failure(**failure) for failure in part["failures"]]})
            for name, part in data["learners"].items()
        }
        return cls(**{**data, "learners": learners})


def _shallow(record: Failure | LearnerRecord | RoundRecord) -> dict[str, Any]:
    """Do what `dataclasses.asdict` does, ten times faster: a record may hold thousands of learners."""
    values = ((name, getattr(record, name)) for name in record.__slots__)
    return {name: value.copy() if isinstance(value, dict | list) else value for name, value in values}
