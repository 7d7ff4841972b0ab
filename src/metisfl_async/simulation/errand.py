"""What goes to a worker of a simulation and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Manifest, Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.partial_sum import Contribution
from metisfl_async.core.strategies.scaling import ScalingFactor
from metisfl_async.learner.elsewhere import Raised
from metisfl_async.simulation.parcel import Parcel

__all__ = ["Done", "Errand", "Moved", "Single", "Task", "Weighing", "failed"]


@dataclass(frozen=True, slots=True)
class Task:
    """A task of one learner."""

    number: int  #: of the learner, with which it is made
    learner: LearnerId
    offer: TaskOffer
    state: Parcel | None = None  #: what the learner remembers, as bytes

    def bare(self) -> Task:
        """Give the same without the state."""
        return self if self.state is None else replace(self, state=None)


@dataclass(frozen=True, slots=True)
class Moved:
    """A model between processes."""

    manifest: Manifest
    version: int
    parcel: Parcel

    @classmethod
    def of(cls, model: Model, directory: str | None) -> Moved:
        return cls(model.manifest, model.version, Parcel.pack([model.buffer], directory))

    def unpack(self) -> Model:
        (buffer,) = self.parcel.unpack()
        return Model(self.manifest, buffer, self.version)


@dataclass(frozen=True, slots=True)
class Weighing:
    """How much an update weighs, for who folds it."""

    factor: str | ScalingFactor
    max_weight: float
    sum_form: type[Sum] = Sum


@dataclass(frozen=True, slots=True)
class Errand:
    """Tasks of one kind, on one global model, for one worker."""

    tasks: Sequence[Task]
    model: Moved | None  #: None: first weights are asked for
    weighing: Weighing | None = None  #: where updates are folded
    directory: str | None = None  #: for large arrays; without one, all goes along with the message
    owns_process: bool = False  #: whether the worker is a process in which nothing else runs
    keeps_state: bool = False  #: whether learners' states are kept

    @property
    def kind(self) -> TaskKind:
        return self.tasks[0].offer.kind

    def carried(self) -> Errand:
        """Have all states go along, for a worker that may be on another machine."""
        tasks = [task if task.state is None else replace(task, state=task.state.carried()) for task in self.tasks]
        return replace(self, tasks=tasks)

    def apart(self) -> list[Errand]:
        """Make one of each task."""
        return [replace(self, tasks=[task]) for task in self.tasks]


@dataclass(frozen=True, slots=True)
class Single:
    """An update that is not folded, or first weights."""

    task: Task
    model: Moved
    metrics: Metrics
    metadata: dict[str, Json]


@dataclass(slots=True)
class Done:
    """What came of an errand."""

    parts: Parcel | None = None  #: of the sum, if there is one
    contributions: list[Contribution] = field(default_factory=list)  #: to the sum
    model: tuple[Manifest, int] | None = None  #: the global model that the sum was trained from: manifest and version
    singles: list[Single] = field(default_factory=list)
    evaluated: list[tuple[Task, Metrics]] = field(default_factory=list)
    refused: list[tuple[Task, str, str]] = field(default_factory=list)  #: updates: the error's type, and its text
    failed: list[tuple[Task, Raised]] = field(default_factory=list)
    states: list[tuple[Task, Parcel]] = field(default_factory=list)  #: of learners that have trained
    left_out: dict[str, str] = field(default_factory=dict)  #: what learners said that cannot be used, and why

    def discard(self) -> None:
        """Remove what lies in files."""
        states = (state for _, state in self.states)
        for parcel in [self.parts, *(single.model.parcel for single in self.singles), *states]:
            if parcel is not None:
                parcel.discard()


def failed(tasks: Sequence[Task], error: Exception) -> Done:
    """Say of an errand's tasks that nothing came of them, and why."""
    raised = Raised.of(error, error.__traceback__)
    return Done(failed=[(task.bare(), raised) for task in tasks])
