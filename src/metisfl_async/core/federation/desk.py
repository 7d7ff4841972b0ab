"""Hands out tasks and takes in their outcomes: what is the same for every task, whatever it is for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from metisfl_async.core.federation.commands import Announce, Command, Count, Offer, Withdraw
from metisfl_async.core.federation.events import TaskFailed, UpdateCounted
from metisfl_async.core.federation.ledger import Ledger
from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict, seed_of
from metisfl_async.core.federation.uploads import UNKNOWN, Uploads, reply_of, why
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, new_task_id
from metisfl_async.core.messages import Outcome, TaskOffer, UpdateReply
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.strategies import Strategies

__all__ = ["Desk"]


class Desk:
    """Moves the tasks of one federation, and says what learners and watchers hear of it."""

    def __init__(
        self,
        federation_id: FederationId,
        strategies: Strategies,
        clock: Callable[[], float],
        do: Callable[[Command], None],
        on_failed: Callable[[Task], None],
    ) -> None:
        self.ledger = Ledger(clock)
        self.uploads = Uploads(self.ledger, do)
        self.seed = 0  #: of the federation
        self._federation_id, self._strategies = federation_id, strategies
        self._do, self._on_failed = do, on_failed

    def assign(
        self,
        kind: TaskKind,
        learner: LearnerId,
        of: Round,
        *,
        version: int,
        params: Mapping[str, Json],
        part: LearnerRecord,
    ) -> Task:
        """Make a task with parameters that the user's hook may change."""
        config = self._strategies.params(kind, of.number, learner, params)
        return self.await_(Task(new_task_id(), kind, learner, of.number, version, part, config))

    def await_(self, task: Task) -> Task:
        """Await a task from now on, a new one or one of before the controller died."""
        self.ledger.assign(task)
        if task.kind is TaskKind.TRAIN:
            task.part.train_task_id = task.id
        elif task.kind is TaskKind.EVALUATE:
            task.part.evaluation_task_id = task.id
        return task

    def offer(self, task: Task) -> None:
        self.ledger.offer(task)
        model = ModelRef(self._federation_id, task.model_version)
        seed = seed_of(self.seed, task)
        self._do(Offer(task.learner, TaskOffer(task.id, task.kind, task.round_number, model, task.config, seed)))

    def judge(self, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        """Say what a learner should do with a task that it holds; it holds only what it was offered."""
        task = self.ledger.find(learner, held.task_id)
        if task is None:
            return Verdict.DISCARD, UNKNOWN
        if task.state is TaskState.COUNTED:
            is_update = task.kind is not TaskKind.EVALUATE  # nothing else is in a model
            return (Verdict.COUNTED, why(task)) if is_update else (Verdict.DISCARD, "its result is known")
        if task.state is TaskState.FOLDED:
            return Verdict.KEEP, "it is folded; a model with it is to come"
        if task.state.is_final:
            return Verdict.DISCARD, why(task)
        if task.state is TaskState.PENDING:  # offered by this controller before it died
            self.ledger.offer(task)
        self.ledger.accept(task)
        return (Verdict.UPLOAD, "its outcome is awaited") if held.is_done else (Verdict.CONTINUE, "it is awaited")

    def count(self, tasks: Collection[Task], version: int) -> None:
        """End training tasks whose updates are in a model that has just been published."""
        for task in tasks:
            self.ledger.count(task)
            self._do(Count(task.learner, task.id))
            weight, num_learners = task.part.weight or 0.0, task.part.num_relayed or 1
            self._do(Announce(UpdateCounted(task.round_number, task.learner, weight, version, num_learners)))

    def give_up_all(self, state: TaskState, reason: str) -> None:
        """End everything that is awaited, and updates that are in no model."""
        for task in [*self.ledger.open(), *(task for tasks in self.ledger.folded.values() for task in tasks)]:
            self.give_up(task, state, reason)

    def give_up(self, task: Task, state: TaskState, reason: str, error_type: str = "") -> None:
        """End a task that does not count, and say so; its learner is told unless it told us."""
        error_type, was_folded = error_type or state.value, task.state is TaskState.FOLDED
        self.ledger.fail(task, state, reason, error_type)
        self._do(Announce(TaskFailed(task.round_number, task.learner, task.kind.value, error_type, reason)))
        is_refused = state is TaskState.REJECTED
        is_taken_back = is_refused and was_folded
        self.uploads.settle(task, UpdateReply(Outcome.REFUSED, reason) if is_refused else reply_of(task))
        if is_taken_back or state in (TaskState.EXPIRED, TaskState.LATE, TaskState.CANCELLED):
            self._do(Withdraw(task.learner, task.id, task.reason))
        self._on_failed(task)

    def expire(self, task: Task, reason: str) -> None:
        """Stop waiting for a task, unless its update is whole already."""
        if task.state is not TaskState.RECEIVED:
            self.give_up(task, TaskState.LATE if task.state is TaskState.UPLOADING else TaskState.EXPIRED, reason)
