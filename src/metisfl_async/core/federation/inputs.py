"""What happens to a federation: the controller hands each of these to `Federation.handle`, in order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.federation.commands import TimerName
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import HeldTask, TaskKind
from metisfl_async.core.ids import LearnerId, StreamId, TaskId
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.strategies.aggregation.contributors import Contributor

__all__ = [
    "CENTRAL_S",
    "Accepted",
    "Admit",
    "Arrived",
    "CentralEvaluation",
    "Damaged",
    "Disconnected",
    "Evaluated",
    "Failed",
    "Folded",
    "Input",
    "Interrupted",
    "Joined",
    "Left",
    "Moved",
    "Proceed",
    "Published",
    "Rejected",
    "Resume",
    "Saved",
    "Served",
    "Start",
    "Stop",
    "TimerFired",
    "Unpublished",
    "gave_up",
]

# --- the driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin once so many learners are connected; the learner that gives the first weights is drawn with `seed`."""

    signals: TerminationSignals
    num_learners: int
    seed: int
    join_timeout_s: float | None = None
    is_model_given: bool = False  #: whether the first weights are there: version 0
    evaluates: bool = False  #: whether the driver evaluates each global model; a round waits for that


@dataclass(frozen=True, slots=True)
class CentralEvaluation:
    """The driver has evaluated a global model, or could not. With neither metrics nor an error, it is at work."""

    model_version: int
    metrics: Metrics | None = None
    error_type: str = ""
    message: str = ""


CENTRAL_S = 60.0  #: for which a driver that evaluates may be silent


def gave_up(version: int | None, why: str) -> CentralEvaluation:
    """Say that the driver's evaluation is not waited for any longer."""
    return CentralEvaluation(version or 0, error_type="timeout", message=why)


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on where a controller died, with the model of this version; None: there were no weights yet."""

    standing: Standing
    version: int | None


@dataclass(frozen=True, slots=True)
class Proceed:
    """Go on with a federation that is led: train from its latest model, or have the next one evaluated."""

    kind: TaskKind
    note: str = ""  #: on a round, which survives the controller as long as the round is open


@dataclass(frozen=True, slots=True)
class Stop:
    """End it now; what is under way is not waited for."""

    reason: str
    ending: Ending = Ending.STOPPED


# --- learners come and go --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """A learner connected, for the first time or again, with the tasks that it holds. The answer is `Greet`.

    One that was connected before the federation was there (None) gets no answer.
    """

    learner: LearnerId
    held: Collection[HeldTask] | None = ()


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection broke; the learner may come back within its lease."""

    learner: LearnerId
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A learner said goodbye, or was silent for too long."""

    learner: LearnerId
    reason: str


# --- tasks and their outcomes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """A learner has acknowledged a task."""

    learner: LearnerId
    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Failed:
    """A learner could not do a task."""

    learner: LearnerId
    task_id: TaskId
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result of an evaluation came; a relay's is that of `contributors`, and has no metrics of its own."""

    learner: LearnerId
    task_id: TaskId
    metrics: Metrics
    contributors: Mapping[str, Contributor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A learner begins to fetch a global model: without rounds, it may be newer than the one in its task."""

    learner: LearnerId
    version: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes of models went to or came from a learner."""

    learner: LearnerId
    sent: int = 0
    received: int = 0
    is_all: bool = False  #: whether a model has been sent to its end


# --- an update, by the stream that brings it -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    """The header of an update came, on a new stream. The answer is `Receive` or `Answer`, or comes with the outcome.

    `trained_from` is the global model that the learner says it started from. It is believed as far as it can be: not
    older than the one in the task, and not newer than the learner has fetched.
    """

    stream: StreamId
    learner: LearnerId
    task_id: TaskId
    trained_from: int = 0
    content: bytes = b""  #: what tells the update from another one of the same task


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The stream broke; its learner still has the update, and may have begun another stream."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class Arrived:
    """The update is here, whole and undamaged. The answer is `Fold`, unless it is not wanted any more."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class Damaged:
    """The update was damaged on its way: it may be sent again, a few times."""

    stream: StreamId
    error_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The update cannot be used."""

    stream: StreamId
    error_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Folded:
    """The update is in the sum; first weights: they are the global model.

    `held_bytes` of updates were in memory then.
    """

    stream: StreamId
    weight: float
    metrics: Metrics = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)
    held_bytes: int = 0
    norm: float | None = None  #: of what the update changes of the global model
    is_global: bool = False  #: whether it is the global model, as it was
    twin: LearnerId | None = None  #: who sent the same update for the same model, if somebody did
    num_relayed: int | None = None  #: of a sum: how many learners' updates are in it


# --- time, and the aggregator ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The time of a `StartTimer` is over."""

    name: TimerName


@dataclass(frozen=True, slots=True)
class Published:
    """The model that `Aggregate` asked for is there; fetching stored updates for it took so long."""

    version: int
    selection_ms: float = 0.0
    notes: Mapping[LearnerId, Mapping[str, Json]] = field(default_factory=dict)  #: what the rule says of the updates
    cosines: Mapping[TaskId, float] = field(default_factory=dict)  #: of what they change to its mean
    privacy: Mapping[str, float] = field(default_factory=dict)  #: that is spent so far, as the rule says it


@dataclass(frozen=True, slots=True)
class Unpublished:
    """No model that can be published came of `Aggregate`.

    The updates are still folded if it `keeps_updates`, and may do the next time if that `may_pass`; else there must be
    more of them.
    """

    reason: str
    keeps_updates: bool = False
    may_pass: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """What `Save` asked for is done."""

    number: int


Input: TypeAlias = (
    Start
    | CentralEvaluation
    | Resume
    | Stop
    | Proceed
    | Joined
    | Disconnected
    | Left
    | Accepted
    | Failed
    | Evaluated
    | Served
    | Moved
    | Admit
    | Interrupted
    | Arrived
    | Damaged
    | Rejected
    | Folded
    | TimerFired
    | Published
    | Unpublished
    | Saved
)
