"""A task and its life: what was asked of which learner, and how it ended. States that end a task never change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.ids import NO_FEDERATION, LearnerId, ModelRef, StreamId, TaskId
from metisfl_async.core.metrics import Json

__all__ = ["HeldTask", "Task", "TaskKind", "TaskState", "Verdict", "seed_of"]


class TaskKind(StrEnum):
    TRAIN = "train"
    EVALUATE = "evaluate"
    GET_WEIGHTS = "get_weights"  #: the first weights of a federation


class TaskState(StrEnum):
    PENDING = "pending"  #: made; its learner is not connected
    OFFERED = "offered"  #: sent, not acknowledged
    ACCEPTED = "accepted"  #: acknowledged; its learner works on it
    UPLOADING = "uploading"  #: its update is on the way
    RECEIVED = "received"  #: its update is here, being checked and folded
    FOLDED = "folded"  #: its update is in the sum of a model that is not published yet
    COUNTED = "counted"  #: done; an update: in a published model
    FAILED = "failed"  #: its learner could not do it
    LOST = "lost"  #: its learner left, was silent for too long, or came back without it; its share may be gone with it
    EXPIRED = "expired"  #: the deadline passed before its outcome came
    LATE = "late"  #: the deadline passed while its update was on the way
    CANCELLED = "cancelled"  #: the federation ended
    REJECTED = "rejected"  #: its update came and was refused, or no model could be made of it

    @property
    def is_final(self) -> bool:
        return self not in _NEXT


#: What may follow each state that does not end a task. UPLOADING goes back when a connection breaks; evaluations are
#: counted without an upload.
_ENDINGS = {TaskState.FAILED, TaskState.LOST, TaskState.EXPIRED, TaskState.CANCELLED, TaskState.REJECTED}
_NEXT: dict[TaskState, set[TaskState]] = {
    TaskState.PENDING: {TaskState.OFFERED, *_ENDINGS},
    TaskState.OFFERED: {TaskState.ACCEPTED, TaskState.COUNTED, *_ENDINGS},
    TaskState.ACCEPTED: {TaskState.UPLOADING, TaskState.COUNTED, *_ENDINGS},
    TaskState.UPLOADING: {TaskState.ACCEPTED, TaskState.RECEIVED, TaskState.LATE, *_ENDINGS},
    TaskState.RECEIVED: {TaskState.FOLDED, TaskState.COUNTED, TaskState.REJECTED, TaskState.CANCELLED},
    TaskState.FOLDED: {TaskState.COUNTED, TaskState.CANCELLED, TaskState.LOST, TaskState.REJECTED},
}


@dataclass(slots=True)
class Task:
    """One piece of work for one learner."""

    id: TaskId
    kind: TaskKind
    learner: LearnerId
    round_number: int
    model_version: int  #: which its learner works on
    newest_version: int = field(init=False)  #: that its learner has; without rounds, maybe one that it fetched since
    part: LearnerRecord  #: its learner's part of a record, which it fills
    config: dict[str, Json] = field(default_factory=dict)
    state: TaskState = TaskState.PENDING
    reason: str = ""  #: why it ended as it did, for its learner
    error_type: str = ""  #: if it did not count: the exception's class, or the state it ended in
    has_model: bool = False  #: whether its learner was sent a model for it
    moved: int = 0  #: how many steps of its learner's were told: fetching, working, uploading
    damages: int = 0  #: how many times its update was damaged on its way
    content: bytes = b""  #: what tells its update from another one, once it is whole
    streams: list[StreamId] = field(default_factory=list)  #: which bring its update, or wait to hear what became of it
    made_at: float = 0.0  #: seconds on the controller's monotonic clock, like the next five
    offered_at: float = 0.0
    accepted_at: float = 0.0
    upload_at: float = 0.0  #: when the header of its update came
    received_at: float = 0.0  #: when the last frame of its update came
    ended_at: float = 0.0

    def __post_init__(self) -> None:
        self.newest_version = self.model_version

    def move_to(self, state: TaskState, reason: str = "") -> None:
        """Change the state; a move that the table above does not have is a bug, not an input."""
        if state not in _NEXT.get(self.state, ()):
            raise AssertionError(f"task {self.id} cannot go from {self.state} to {state}")
        self.state, self.reason = state, reason


class Verdict(StrEnum):
    """What a learner that connects again should do with a task that it holds."""

    CONTINUE = "continue"
    UPLOAD = "upload"
    KEEP = "keep"  #: its update is folded; the learner hears when it counts
    COUNTED = "counted"  #: its update is in a published model
    DISCARD = "discard"


class HeldTask(NamedTuple):
    """A task that a connecting learner still has."""

    task_id: TaskId
    is_done: bool  #: its outcome is ready to be sent
    kind: str = TaskKind.TRAIN.value
    model: ModelRef = ModelRef(NO_FEDERATION, 0)  #: which it works on


def seed_of(seed: int, task: Task) -> int:
    """Derive what a learner draws with in a task: from the federation's seed, its id, the round, and the kind."""
    text = f"{seed} {task.round_number} {task.kind.value} {task.learner}"
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "little") or 1
