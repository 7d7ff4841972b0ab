"""What learners, the controller and the driver say to each other, beside models. `protos/` has the same on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from metisfl_async.core.codecs import RAW
from metisfl_async.core.config import ClientParams, TerminationSignals
from metisfl_async.core.federation.records import BestScore
from metisfl_async.core.federation.tasks import HeldTask, TaskKind, Verdict
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, ModelRef, TaskId, Token
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.strategies.aggregation.contributors import Contributor

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_QUESTION_BYTES",
    "NO_ANSWERS",
    "OWN_CONNECTION_BYTES",
    "PROTOCOL",
    "TRAINED_BEFORE",
    "Accept",
    "Afterwards",
    "Answer",
    "AskRequest",
    "ControllerMessage",
    "Counted",
    "Evaluated",
    "Failed",
    "Farewell",
    "Heartbeat",
    "Hello",
    "JoinReply",
    "JoinRequest",
    "LearnerMessage",
    "Outcome",
    "Question",
    "Settled",
    "StartRequest",
    "Status",
    "TaskOffer",
    "Unknown",
    "UpdateReply",
    "Welcome",
    "Withdrawn",
]


TRAINED_BEFORE = "trained_before"  #: in the metadata of first weights: whether their learner had trained before
MAX_QUESTION_BYTES = 48 * 1024  #: of the parameters of a question to learners, as JSON
MAX_ANSWER_BYTES = 96 * 1024  #: of what a learner answers, as JSON
NO_ANSWERS = "simulated learners exist only while they work, and answer no questions"
PROTOCOL = 3  #: the version of what is said here; parties of different versions refuse each other
OWN_CONNECTION_BYTES = 2**21  #: if nothing else was said


@dataclass(frozen=True, slots=True)
class JoinRequest:
    learner_id: LearnerId  #: empty: the controller makes one
    token: Token  #: of an earlier join, to take over from itself; empty at first
    address: str = ""  #: where a learner that listens is dialled
    secret: str = ""  #: by which a learner that listens proves there that it is the one who asks
    protocol: int = PROTOCOL  #: which version of the protocol the learner speaks


@dataclass(frozen=True, slots=True)
class JoinReply:
    learner_id: LearnerId
    token: Token  #: goes into every later request of this connection
    incarnation: int  #: how many times this learner has joined
    heartbeat_secs: float
    lease_secs: float
    max_model_bytes: int
    federation_id: FederationId = NO_FEDERATION  #: which federation runs; empty: none
    update_codec: str = RAW  #: how updates should travel; "raw" may always be sent
    download_codec: str = RAW  #: how global models may be asked for; "raw" may always be
    relays: tuple[str, ...] = ()  #: of a relay's controller: its key, then those of the relays above it
    own_connection_bytes: int = OWN_CONNECTION_BYTES  #: from this size on, an update has one to itself


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
    contributors: Mapping[str, Contributor] = field(default_factory=dict)  #: in place of metrics: whose a relay's are


@dataclass(frozen=True, slots=True)
class Failed:
    task_id: TaskId
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a learner says to a question: something as JSON, or why it cannot."""

    question_id: str
    json: str = ""
    error_type: str = ""  #: the exception's class, if it is no answer
    message: str = ""
    learner: str = ""  #: from a relay, whose answer it is; one without ends them


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to Hello: what to do with each held task."""

    verdicts: dict[TaskId, tuple[Verdict, str]]


@dataclass(frozen=True, slots=True)
class TaskOffer:
    task_id: TaskId
    kind: TaskKind
    round_number: int
    model: ModelRef  #: which the learner works on
    config: dict[str, Json]
    seed: int = 0  #: for what the learner draws; 0: none

    @property
    def model_version(self) -> int:
        return self.model.version


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome has arrived."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Counted:
    """The updates of these tasks are in a published model; their learner may forget them."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The outcome is not wanted any more."""

    task_id: TaskId
    reason: str


@dataclass(frozen=True, slots=True)
class Question:
    """A method of the learner's is to be called, if its class marks it as askable; nobody waits longer than said."""

    id: str
    method: str
    params: dict[str, Json]
    timeout_secs: float


class Afterwards(StrEnum):
    """What a learner does after a farewell."""

    LEAVE = "leave"  #: the controller ends
    STAY = "stay"  #: the controller waits for the next federation
    RETURN = "return"  #: the controller ends, and is started again to go on


@dataclass(frozen=True, slots=True)
class Farewell:
    """The federation is over, or the controller ends."""

    reason: str
    model: ModelRef | None  #: the final model, if there is one
    then: Afterwards = Afterwards.LEAVE


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that this version does not know, from a newer peer; it is skipped, or refused if it is a task."""

    what: str
    task_id: TaskId | None = None  #: if it is a task


class Outcome(StrEnum):
    """What became of an update."""

    FOLDED = "folded"  #: in the sum of a model that is not published yet: its learner keeps it
    COUNTED = "counted"  #: in a published model that is as durable as the store is
    REFUSED = "refused"  #: it does not count, and is not to be sent again
    CANCELLED = "cancelled"  #: the federation ended before it was in a model
    DAMAGED = "damaged"  #: on its way: it is to be sent again


@dataclass(frozen=True, slots=True)
class UpdateReply:
    """The answer to an update."""

    outcome: Outcome
    reason: str = ""

    @property
    def is_counted(self) -> bool:
        return self.outcome is Outcome.COUNTED

    @property
    def is_taken(self) -> bool:
        """Whether it is counted, or will be with the next model."""
        return self.outcome in (Outcome.FOLDED, Outcome.COUNTED)


@dataclass(frozen=True, slots=True)
class StartRequest:
    signals: TerminationSignals
    num_learners: int
    seed: int
    join_timeout_secs: float | None
    federation_id: FederationId  #: made by the driver; a second request with the same one changes nothing
    learners: tuple[ClientParams, ...] = ()  #: those that listen, which the controller may dial
    has_model: bool = False  #: whether the first weights were sent before, under the same federation id
    evaluates: bool = False  #: whether the driver evaluates each global model; rounds wait for that
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class AskRequest:
    """What a driver asks all connected learners."""

    method: str
    params: dict[str, Json]
    timeout_secs: float  #: for all answers
    num_learners: int = 0  #: wait until so many are connected ...
    join_timeout_secs: float | None = None  #: ... for so long
    learners: tuple[ClientParams, ...] = ()  #: those that listen, which the controller may dial

    def once_there(self, start: StartRequest) -> AskRequest:
        """Wait for the learners that a federation waits for before it begins."""
        count, wait_s = start.num_learners, start.join_timeout_secs
        return replace(self, num_learners=count, join_timeout_secs=wait_s, learners=start.learners)


@dataclass(frozen=True, slots=True)
class Status:
    """What a controller does."""

    federation_id: FederationId  #: which federation runs, or was the last; empty: none
    is_finished: bool = False
    signals: TerminationSignals | None = None  #: when it ends
    evaluates: bool = False  #: whether its driver evaluates each global model
    best: BestScore | None = None  #: of the model that is kept beside the latest
    protocol: int = PROTOCOL


LearnerMessage: TypeAlias = Hello | Accept | Heartbeat | Evaluated | Failed | Answer
ControllerMessage: TypeAlias = (
    Welcome | TaskOffer | Settled | Counted | Withdrawn | Heartbeat | Question | Farewell | Unknown
)
