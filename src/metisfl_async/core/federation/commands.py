"""What the core asks the controller to do, in order. Commands are values: they never change, and share nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import Event
from metisfl_async.core.federation.tasks import TaskKind, Verdict
from metisfl_async.core.ids import LearnerId, StreamId, TaskId
from metisfl_async.core.messages import TaskOffer, UpdateReply

__all__ = [
    "Abandon",
    "Aggregate",
    "Announce",
    "Answer",
    "Command",
    "Count",
    "Discard",
    "Finish",
    "Fold",
    "Forget",
    "Greet",
    "KeepBest",
    "Offer",
    "Receive",
    "Save",
    "StartTimer",
    "StopTimer",
    "TimerName",
    "Withdraw",
]

TimerName = Literal["gather", "phase", "cutoff", "return", "ending", "central"]

# --- to a learner ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greet:
    """Answer a learner that has connected: for each task that it holds, what to do with it, and why."""

    learner: LearnerId
    verdicts: dict[TaskId, tuple[Verdict, str]]


@dataclass(frozen=True, slots=True)
class Offer:
    """Send a task to its learner."""

    learner: LearnerId
    task: TaskOffer


@dataclass(frozen=True, slots=True)
class Count:
    """Tell the learner that its update is in a published model."""

    learner: LearnerId
    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the learner that the task's outcome is not wanted any more."""

    learner: LearnerId
    task_id: TaskId
    reason: str


# --- about an update on its way --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receive:
    """Let the update of this stream in; it was trained from this version."""

    stream: StreamId
    kind: TaskKind
    model_version: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Read no more of the stream: a newer one brings the same update."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class Fold:
    """Check the update of this stream, fold it, and report back."""

    stream: StreamId
    standing: str = ""  #: of first weights: how the federation stands; to be saved with them, in one step


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell the stream what became of its update; read no more of it."""

    stream: StreamId
    reply: UpdateReply


# --- the aggregator --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make a global model of what was folded, publish it as this version, and report back."""

    version: int
    others: tuple[LearnerId, ...] = ()  #: whose latest updates are folded too, before
    standing: str = ""  #: how the federation stands then, to be saved with the model in one step; "": not to be saved


@dataclass(frozen=True, slots=True)
class Save:
    """Save how the federation stands, and the latest global model if it is not, and report back."""

    number: int
    standing: str
    is_finished: bool


@dataclass(frozen=True, slots=True)
class KeepBest:
    """Keep the latest global model as the best so far, in the place of the one before it."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Take a learner's share out of the aggregation, and forget its updates: it left."""

    learner: LearnerId


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget what was folded: the federation is over."""


# --- time, and the watchers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Report back in so many seconds; a timer of the same name is replaced."""

    name: TimerName
    seconds: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Forget the timer."""

    name: TimerName


@dataclass(frozen=True, slots=True)
class Announce:
    """Let the watchers know."""

    event: Event


@dataclass(frozen=True, slots=True)
class Finish:
    """Training is over; the last command there is."""

    reason: str
    ending: Ending


Command: TypeAlias = (
    Greet
    | Offer
    | Count
    | Withdraw
    | Receive
    | Abandon
    | Fold
    | Answer
    | Aggregate
    | Save
    | KeepBest
    | Forget
    | Discard
    | StartTimer
    | StopTimer
    | Announce
    | Finish
)
