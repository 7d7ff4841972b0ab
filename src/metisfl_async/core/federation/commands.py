"""What the core asks the controller to do, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from metisfl_async.core.federation.events import Event
from metisfl_async.core.federation.tasks import Task
from metisfl_async.core.ids import LearnerId

__all__ = [
    "Aggregate",
    "Announce",
    "Command",
    "Discard",
    "Finish",
    "Forget",
    "Offer",
    "StartTimer",
    "StopTimer",
    "Withdraw",
]

TimerName = Literal["gather", "phase", "cutoff"]


@dataclass(frozen=True, slots=True)
class Offer:
    """Send the task to its learner."""

    task: Task


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the learner that the task's outcome is not wanted any more; the task says why."""

    task: Task


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
class Aggregate:
    """Make a global model of what was folded, publish it as this version, and report back."""

    version: int
    others: tuple[LearnerId, ...] = ()  #: whose latest updates are folded too, before


@dataclass(frozen=True, slots=True)
class Forget:
    """Take a learner's share out of the aggregation, and forget its updates: it left."""

    learner: LearnerId


@dataclass(frozen=True, slots=True)
class Discard:
    """Forget what was folded."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Let the watchers know."""

    event: Event


@dataclass(frozen=True, slots=True)
class Finish:
    """Training is over; the last command there is."""

    reason: str
    is_failure: bool


Command: TypeAlias = Offer | Withdraw | StartTimer | StopTimer | Aggregate | Forget | Discard | Announce | Finish
