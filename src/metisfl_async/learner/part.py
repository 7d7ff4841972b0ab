"""A learner's part in a federation: which tasks it holds, and what becomes of them. Nothing here waits or acts.

As the core decides for the controller, this decides for the learner: each method takes in one thing that happened, and
returns the steps that follow from it, which `LearnerClient` carries out in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from metisfl_async.core.federation.tasks import HeldTask, Verdict
from metisfl_async.core.ids import NO_FEDERATION, FederationId, TaskId
from metisfl_async.core.messages import (
    Accept,
    Afterwards,
    ControllerMessage,
    Counted,
    Evaluated,
    Failed,
    Farewell,
    Heartbeat,
    JoinReply,
    LearnerMessage,
    Outcome,
    Question,
    Settled,
    TaskOffer,
    Unknown,
    UpdateReply,
    Welcome,
    Withdrawn,
)

__all__ = ["Begin", "Drop", "End", "Forget", "Part", "Push", "Reply", "Say", "Step"]


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message to the controller."""

    message: LearnerMessage


@dataclass(frozen=True, slots=True)
class Begin:
    """Work on a task, after those before it."""

    offer: TaskOffer


@dataclass(frozen=True, slots=True)
class Push:
    """Send the update of a task."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class Drop:
    """The task is not wanted any more: stop what is done for it."""

    task_id: TaskId
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The task is settled: what is kept for it, or still done, is not needed any more."""

    task_id: TaskId
    refusal: str | None = None  #: why its update, if it has one, does not count


@dataclass(frozen=True, slots=True)
class End:
    """The federation is over; take over the final model, and do what the farewell says."""

    farewell: Farewell


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer this, beside the tasks."""

    question: Question


Step: TypeAlias = Reply | Say | Begin | Push | Drop | Forget | End


@dataclass(slots=True)
class _Held:
    """A task that the controller awaits from us, or whose update is in no published model yet."""

    offer: TaskOffer
    outcome: Evaluated | Failed | None = None  #: to be said until it is settled
    is_done: bool = False
    is_folded: bool = False  #: its update is with the controller, and kept here until it counts


class Part:
    """What a learner holds of one federation. All of it is worthless in another."""

    def __init__(self) -> None:
        self.federation_id: FederationId = NO_FEDERATION
        self._held: dict[TaskId, _Held] = {}

    def holds(self, task_id: TaskId) -> bool:
        return task_id in self._held

    def offer_of(self, task_id: TaskId) -> TaskOffer:
        return self._held[task_id].offer

    def hello(self) -> list[HeldTask]:
        """List the tasks that are held, for a controller that we connect to."""
        return [
            HeldTask(task_id, held.is_done, held.offer.kind.value, held.offer.model)
            for task_id, held in self._held.items()
        ]

    def take_up(self, offer: TaskOffer, *, is_done: bool = True) -> list[Step]:
        """Hold a task of before this learner was started again; an update that is ready waits to be asked for."""
        self.federation_id = offer.model.federation_id
        self._held[offer.task_id] = _Held(offer, is_done=is_done, is_folded=is_done)
        return [] if is_done else [Begin(offer)]

    # --- what happens ----------------------------------------------------------------------------------------------

    def joined(self, reply: JoinReply) -> list[Step]:
        """Take note of which federation runs where we have joined."""
        if reply.federation_id in (NO_FEDERATION, self.federation_id):
            return []
        return self._enter(reply.federation_id)

    def told(self, message: ControllerMessage) -> list[Step]:
        """Take in what the controller says."""
        match message:
            case Welcome(verdicts):
                return self._welcomed(verdicts)
            case TaskOffer():
                return self._offered(message)
            case Settled(task_id):
                held = self._held.get(task_id)
                failed = held.outcome if held is not None else None
                return self._forget(task_id, failed.message if isinstance(failed, Failed) else None)
            case Counted(task_ids):
                return [step for task_id in task_ids for step in self._forget(task_id)]
            case Withdrawn(task_id, reason):
                return self._drop(task_id, reason)
            case Farewell(then=Afterwards.RETURN):
                return [End(message)]  # it may go on with what is held
            case Farewell():
                return [*self._drop_all(message.reason), End(message)]
            case Unknown(what, task_id):
                return (
                    [] if task_id is None else [Say(Failed(task_id, "UnexpectedMessage", f"it is not known: {what}"))]
                )
            case Question():
                return [Reply(message)]
            case Heartbeat():
                return []
            case _:
                assert_never(message)

    def reported(self, outcome: Evaluated | Failed) -> list[Step]:
        """Take in an evaluation, or a failure, of our own."""
        if (held := self._held.get(outcome.task_id)) is None:
            return []
        held.outcome, held.is_done = outcome, True
        return [Say(outcome)]

    def trained(self, task_id: TaskId) -> list[Step]:
        """Take note that the update of a task is ready."""
        if (held := self._held.get(task_id)) is None:
            return [Forget(task_id)]
        held.is_done = True
        return [] if held.is_folded else [Push(task_id)]

    def answered(self, task_id: TaskId, reply: UpdateReply) -> list[Step]:
        """Take in the answer to an update; one that is folded is kept until it counts."""
        if (held := self._held.get(task_id)) is None:
            return []
        match reply.outcome:
            case Outcome.FOLDED:
                held.is_folded = True
                return []
            case Outcome.DAMAGED:
                return [Push(task_id)]
            case Outcome.COUNTED:
                return self._forget(task_id)
            case Outcome.REFUSED | Outcome.CANCELLED:
                return self._forget(task_id, reply.reason)

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _welcomed(self, verdicts: dict[TaskId, tuple[Verdict, str]]) -> list[Step]:
        """Do with each held task what the controller says, and say again what it may not have heard."""
        steps: list[Step] = []
        for task_id, (verdict, reason) in verdicts.items():
            match verdict:
                case Verdict.DISCARD:
                    steps += self._drop(task_id, reason)
                case Verdict.COUNTED:
                    steps += self._forget(task_id)
                case Verdict.UPLOAD if (held := self._held.get(task_id)) is not None and held.is_folded:
                    held.is_folded = False  # the sum that it was in is gone
                    steps.append(Push(task_id))
                case Verdict.KEEP if (held := self._held.get(task_id)) is not None and not held.is_done:
                    held.is_folded = True  # it was sent before we were started again
                case Verdict.UPLOAD | Verdict.CONTINUE | Verdict.KEEP:
                    pass  # what is not folded is being sent, or will be
        return steps + [Say(held.outcome) for held in self._held.values() if held.outcome is not None]

    def _offered(self, offer: TaskOffer) -> list[Step]:
        steps: list[Step] = []
        if offer.model.federation_id != self.federation_id:
            steps += self._enter(offer.model.federation_id)
        if offer.task_id not in self._held:
            self._held[offer.task_id] = _Held(offer)
            steps.append(Begin(offer))
        return [*steps, Say(Accept(offer.task_id))]

    def _enter(self, federation_id: FederationId) -> list[Step]:
        """Leave what belongs to another federation behind."""
        self.federation_id = federation_id
        return self._drop_all("the controller runs another federation now")

    def _drop_all(self, reason: str) -> list[Step]:
        return [step for task_id in tuple(self._held) for step in self._drop(task_id, reason)]

    def _drop(self, task_id: TaskId, reason: str) -> list[Step]:
        return [Drop(task_id, reason)] if self._held.pop(task_id, None) is not None else []

    def _forget(self, task_id: TaskId, refusal: str | None = None) -> list[Step]:
        return [Forget(task_id, refusal)] if self._held.pop(task_id, None) is not None else []
