"""What happens in a federation, as its driver sees it: typed events that travel as JSON-like data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.metrics import Metrics

__all__ = [
    "Event",
    "EventsMissed",
    "FederationFinished",
    "FederationResumed",
    "FederationStarted",
    "FirstWeights",
    "LearnerEvaluated",
    "LearnerJoined",
    "LearnerLeft",
    "ModelPublished",
    "RoundFinished",
    "RoundStarted",
    "StoreRecovered",
    "StoreStalled",
    "TaskFailed",
    "TaskMoved",
    "Told",
    "UpdateCounted",
    "UpdateFolded",
    "UpdateRepeated",
    "event_from_dict",
    "event_to_dict",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbered:
    """An event; those of one run of a controller are numbered."""

    serial: int = field(default=0, compare=False, repr=False)  #: from 1; 0: it has not come to a driver yet


@dataclass(frozen=True, slots=True)
class LearnerJoined(_Numbered):
    """A learner connected, for the first time or again."""

    learner: str
    connected: int  #: learners connected now


@dataclass(frozen=True, slots=True)
class LearnerLeft(_Numbered):
    """A learner said goodbye, lost its connection, or was silent for too long."""

    learner: str
    connected: int  #: learners connected now
    reason: str


@dataclass(frozen=True, slots=True)
class FederationStarted(_Numbered):
    """A controller begins to work for a federation, or goes on with it; the first event."""

    federation_id: str
    run_id: str  #: of this run of the controller; after a restart, another one
    started_at: float = 0.0  #: when the federation was started, in seconds since the epoch; a restart changes it not


@dataclass(frozen=True, slots=True)
class FederationResumed(_Numbered):
    """A controller that was started again goes on with what was saved."""

    model_version: int | None  #: of the global model; None: there were no first weights yet
    published: int  #: global models so far


@dataclass(frozen=True, slots=True)
class FirstWeights(_Numbered):
    """The weights that training starts from are there: version 0."""

    source: str  #: "given", "of site-2, as made", or "of site-2, trained before"


@dataclass(frozen=True, slots=True)
class RoundStarted(_Numbered):
    """Training tasks go out to these learners."""

    number: int
    model_version: int
    cohort: list[str]
    in_rounds: bool = True  #: False under a scheduler without rounds


@dataclass(frozen=True, slots=True)
class TaskMoved(_Numbered):
    """A learner has got on with its task: it fetches the model, works, or uploads its update."""

    number: int
    learner: str
    task: str  #: "train", "evaluate" or "get_weights"
    task_id: str  #: as in records
    state: Literal["fetching", "working", "uploading"]
    at_ms: float  #: since the federation started, as in records


@dataclass(frozen=True, slots=True)
class UpdateFolded(_Numbered):
    """An update is in the sum of a model that is not published yet; its learner keeps it until it counts."""

    number: int
    learner: str
    weight: float
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class UpdateRepeated(_Numbered):
    """An update is nothing new: it is the global model as it was, or what another learner sent for the same model."""

    number: int
    learner: str
    twin: str | None  #: the other learner; None: it is the global model


@dataclass(frozen=True, slots=True)
class UpdateCounted(_Numbered):
    """An update is in a published model, which is as durable as the model store is."""

    number: int
    learner: str
    weight: float
    model_version: int  #: of the model that it is in
    num_learners: int = 1  #: whose updates are in it: of a relay's, those below


@dataclass(frozen=True, slots=True)
class TaskFailed(_Numbered):
    """A task did not count: its learner failed, was lost or late, or its update was refused."""

    number: int
    learner: str
    task: str  #: "train", "evaluate" or "get_weights"
    type: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelPublished(_Numbered):
    """There is a new global model."""

    number: int
    model_version: int


@dataclass(frozen=True, slots=True)
class LearnerEvaluated(_Numbered):
    """A learner has evaluated the round's global model."""

    number: int
    learner: str
    metrics: Metrics
    num_learners: int = 1  #: whose evaluations it is the mean of: of a relay's, those below


@dataclass(frozen=True, slots=True)
class ModelEvaluated(_Numbered):
    """The driver has evaluated the round's global model."""

    number: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class RoundFinished(_Numbered):
    """All of a round is known."""

    record: RoundRecord


@dataclass(frozen=True, slots=True)
class StoreStalled(_Numbered):
    """The model store fails; it is tried again, and nothing counts meanwhile. Learners go on."""

    reason: str
    seconds: float  #: for how long it has failed


@dataclass(frozen=True, slots=True)
class StoreRecovered(_Numbered):
    """The model store works again; nothing was lost."""

    seconds: float  #: for how long it failed


@dataclass(frozen=True, slots=True)
class FederationFinished(_Numbered):
    """The last event."""

    reason: str
    is_failure: bool = False  #: whether it ended without reaching a termination signal or being stopped
    ending: Ending = Ending.STOPPED  #: the same reason as a code


@dataclass(frozen=True, slots=True)
class EventsMissed(_Numbered):
    """The watcher was too slow: this many events are no longer kept."""

    count: int


Event: TypeAlias = (
    LearnerJoined
    | LearnerLeft
    | FederationStarted
    | FederationResumed
    | FirstWeights
    | RoundStarted
    | TaskMoved
    | UpdateFolded
    | UpdateRepeated
    | UpdateCounted
    | TaskFailed
    | ModelPublished
    | LearnerEvaluated
    | ModelEvaluated
    | RoundFinished
    | StoreStalled
    | StoreRecovered
    | FederationFinished
    | EventsMissed
)

_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__args__}


class Told:
    """An event as it is told to watchers: its text is made once, however many they are."""

    def __init__(self, event: Event) -> None:
        self.event = event

    @cached_property
    def text(self) -> str:
        return json.dumps(event_to_dict(self.event))


def event_to_dict(event: Event) -> dict[str, Any]:
    """Give JSON-like data, the class under ``"event"``."""
    facts: dict[str, Any] = {"event": type(event).__name__}
    for name in event.__slots__:  # all but the number; `asdict` would take much longer
        value = getattr(event, name)
        facts[name] = value.copy() if isinstance(value, dict | list) else value
    if isinstance(event, RoundFinished):
        facts["record"] = event.record.to_dict()
    if event.serial:
        facts["serial"] = event.serial
    return facts


def event_from_dict(data: dict[str, Any]) -> Event:
    """Take what `event_to_dict` gave."""
    facts = dict(data)
    kind = _KINDS[facts.pop("event")]
    if kind is RoundFinished:
        facts["record"] = RoundRecord.from_dict(facts["record"])
    if kind is FederationFinished:
        facts["ending"] = Ending(facts["ending"])
    return kind(**facts)
