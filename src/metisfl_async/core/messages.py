"""What learners, the controller and the driver say to each other, beside models. `protos/` has the same on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from metisfl_async.core.config import ClientParams, TerminationSignals
from metisfl_async.core.federation.tasks import HeldTask, TaskKind, Verdict
from metisfl_async.core.ids import FederationId, LearnerId, TaskId, Token
from metisfl_async.core.metrics import Json, Metrics

__all__ = [
    "Accept",
    "ControllerMessage",
    "Evaluated",
    "Failed",
    "Farewell",
    "Heartbeat",
    "Hello",
    "JoinReply",
    "JoinRequest",
    "LearnerMessage",
    "Settled",
    "StartRequest",
    "TaskOffer",
    "UpdateReply",
    "Welcome",
    "Withdrawn",
]


@dataclass(frozen=True, slots=True)
class JoinRequest:
    learner_id: LearnerId  #: empty: the controller makes one
    token: Token  #: of an earlier join, to take over from itself; empty at first
    address: str = ""  #: where a learner that listens is dialled
    secret: str = ""  #: by which a learner that listens proves there that it is the one who asks


@dataclass(frozen=True, slots=True)
class JoinReply:
    learner_id: LearnerId
    token: Token  #: goes into every later request of this connection
    incarnation: int  #: how many times this learner has joined
    heartbeat_secs: float
    lease_secs: float
    max_model_bytes: int


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a learner, on its Tasks stream or as its first report."""

    token: Token
    held: list[HeldTask] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Accept:
    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sender lives; the controller answers with the same."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    task_id: TaskId
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Failed:
    task_id: TaskId
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to Hello: what to do with each held task."""

    verdicts: dict[TaskId, tuple[Verdict, str]]


@dataclass(frozen=True, slots=True)
class TaskOffer:
    task_id: TaskId
    kind: TaskKind
    round_number: int
    model_version: int
    config: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome has arrived."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The outcome is not wanted any more."""

    task_id: TaskId
    reason: str


@dataclass(frozen=True, slots=True)
class Farewell:
    """The federation is over; the last message to a learner."""

    reason: str
    model_version: int | None  #: of the final model, if there is one


@dataclass(frozen=True, slots=True)
class UpdateReply:
    """What became of an update. Either way it is settled."""

    is_counted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StartRequest:
    signals: TerminationSignals
    num_learners: int
    seed: int
    join_timeout_secs: float | None
    federation_id: FederationId  #: made by the driver; a second request with the same one changes nothing
    learners: tuple[ClientParams, ...] = ()  #: those that listen, which the controller may dial


LearnerMessage: TypeAlias = Hello | Accept | Heartbeat | Evaluated | Failed
ControllerMessage: TypeAlias = Welcome | TaskOffer | Settled | Withdrawn | Heartbeat | Farewell
