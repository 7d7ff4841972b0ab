"""All tasks of a federation: moves them from state to state, and notes when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from metisfl_async.core.federation.records import Failure, LearnerRecord
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.metrics import Json, Metrics

__all__ = ["Ledger"]

KEPT = 2  #: tasks of a learner that are over and known although it has heard so: a call of before may still be underway
MOST_KEPT = 1_000  #: of a learner that hears nothing
MAX_LEARNERS = 10_000  #: whose tasks that are over are known; those asked longest ago are forgotten


class Ledger:
    """Keeps the books. A learner has one task at a time; each task fills its learner's part of a record."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.awaited: dict[LearnerId, Task] = {}  #: what is not over, oldest first
        self._behind: dict[LearnerId, list[Task]] = {}  # what is awaited too, of before the controller died
        self.folded: dict[LearnerId, list[Task]] = {}  #: updates in the sum of a model that is not published yet
        self._over: dict[LearnerId, list[Task]] = {}  # what is, of the learner that reported last, last
        self._folded_at = clock()  # when the aggregator was done with its latest update

    def assign(self, task: Task) -> None:
        """Await a new task from now on."""
        task.made_at = task.offered_at = task.accepted_at = self._clock()
        if task.learner in self.awaited:
            self._behind.setdefault(task.learner, []).append(task)
        else:
            self.awaited[task.learner] = task

    def open_of(self, learner: LearnerId) -> list[Task]:
        """List what is awaited of a learner: one task, or more of before the controller died."""
        task = self.awaited.get(learner)
        return [] if task is None else [task, *self._behind.get(learner, ())]

    def open(self) -> list[Task]:
        """List everything that is awaited."""
        return [task for learner in self.awaited for task in self.open_of(learner)]

    def find(self, learner: LearnerId, task_id: TaskId) -> Task | None:
        """Find a task of this learner, over or not; those of others are none of its business."""
        kept = *self.open_of(learner), *self.folded.get(learner, ()), *self._over.get(learner, ())
        return next((task for task in kept if task.id == task_id), None)

    def awaits(self, task: Task) -> bool:
        """Whether the outcome of a task is still to come."""
        return task in self.open_of(task.learner)

    def counted_ids(self) -> dict[LearnerId, list[TaskId]]:
        """List the training tasks that counted, of those that are still known."""
        counted = {learner: [task.id for task in tasks if _counts(task)] for learner, tasks in self._over.items()}
        return {learner: ids for learner, ids in counted.items() if ids}

    def restore(self, counted: Mapping[LearnerId, Iterable[TaskId]]) -> None:
        """Know again which tasks counted: their learners may not have heard of it."""
        for learner, ids in counted.items():
            self._over[learner] = [
                Task(task_id, TaskKind.TRAIN, learner, 0, 0, LearnerRecord(), state=TaskState.COUNTED)
                for task_id in ids
            ]

    def heard(self, task: Task) -> None:
        """Take note that a learner has accepted a task: it knows by now what was over when the task was offered."""
        over = self._over.get(task.learner, [])
        while len(over) > KEPT and over[0].ended_at <= task.offered_at:
            del over[0]

    def offer(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            task.move_to(TaskState.OFFERED)
        task.offered_at = self._clock()

    def accept(self, task: Task) -> None:
        if task.state is TaskState.OFFERED:
            task.move_to(TaskState.ACCEPTED)
            task.accepted_at = self._clock()
            if task.kind is TaskKind.TRAIN:
                task.part.acknowledge_ms = _ms(task.accepted_at - task.offered_at)

    def fetched(self, task: Task) -> None:
        """Note that a task's learner has its model."""
        task.has_model = True
        if task.kind is TaskKind.TRAIN and task.state in (TaskState.OFFERED, TaskState.ACCEPTED):
            is_accepted = task.state is TaskState.ACCEPTED  # else it fetched before it said so
            task.part.fetch_ms = _ms(self._clock() - task.accepted_at) if is_accepted else 0.0

    def begin_upload(self, task: Task) -> None:
        """Note one more stream of an update; one that comes before its acknowledgement is as good."""
        self.accept(task)
        if task.state is TaskState.ACCEPTED:
            task.move_to(TaskState.UPLOADING)
        task.upload_at = self._clock()

    def receive(self, task: Task) -> None:
        task.move_to(TaskState.RECEIVED)
        task.received_at = self._clock()
        task.part.train_ms = _ms(task.upload_at - task.accepted_at)
        task.part.staging_ms = _ms(task.received_at - task.upload_at)

    def fold(self, task: Task, weight: float, metrics: Metrics, metadata: dict[str, Json]) -> None:
        """Keep a training task whose update is folded, until it counts; its learner is free for another."""
        part = task.part
        begun_at = max(task.received_at, self._folded_at)  # the aggregator does one after another
        task.move_to(TaskState.FOLDED)
        task.ended_at = self._folded_at = self._clock()
        self._remove(task)
        self.folded.setdefault(task.learner, []).append(task)
        part.train_state = task.state.value
        part.weight, part.train_metrics, part.train_metadata = weight, metrics, metadata
        part.aggregation_ms = _ms(task.ended_at - begun_at)

    def count(self, task: Task) -> None:
        """End a training task, or a request for first weights, as done."""
        self._end(task, TaskState.COUNTED)

    def evaluated(self, task: Task, metrics: Metrics, metadata: dict[str, Json]) -> None:
        """End an evaluation as done."""
        self._end(task, TaskState.COUNTED)
        task.part.evaluation_metrics, task.part.evaluated_version = metrics, task.newest_version
        task.part.evaluation_metadata = metadata
        task.part.evaluation_ms = _ms(task.ended_at - task.offered_at)

    def fail(self, task: Task, state: TaskState, reason: str, error_type: str) -> None:
        """End a task in one of the other ways."""
        self._end(task, state, reason)
        task.error_type = error_type
        task.part.failures.append(Failure(task.kind.value, error_type, reason))

    def moved(self, learner: LearnerId, sent: int, received: int) -> None:
        """Count bytes that went to or came from a learner for the task that it is at."""
        if (task := self.awaited.get(learner)) is not None:
            task.part.bytes_sent += sent
            task.part.bytes_received += received

    def _end(self, task: Task, state: TaskState, reason: str = "") -> None:
        was = task.state
        task.move_to(state, reason)
        if was is TaskState.FOLDED:
            self.folded[task.learner].remove(task)
            if not self.folded[task.learner]:
                del self.folded[task.learner]
        else:
            task.ended_at = self._clock()
            self._remove(task)
        if was is TaskState.RECEIVED:
            self._folded_at = task.ended_at
        over = [*self._over.pop(task.learner, []), task][-MOST_KEPT:]
        if len(over) > KEPT and not _counts(over[0]):
            del over[0]
        self._over[task.learner] = over
        if len(self._over) > MAX_LEARNERS:
            del self._over[next(iter(self._over))]
        if task.kind is TaskKind.TRAIN:
            task.part.train_state = state.value

    def _remove(self, task: Task) -> None:
        """Await a task no more; the one behind it takes its place."""
        behind = self._behind.get(task.learner, [])
        if self.awaited[task.learner] is not task:
            behind.remove(task)
        elif behind:
            del self.awaited[task.learner]
            self.awaited[task.learner] = behind.pop(0)
        else:
            del self.awaited[task.learner]
        if not behind:
            self._behind.pop(task.learner, None)


def _counts(task: Task) -> bool:
    """Whether its learner must hear that it counted, and would otherwise send it again."""
    return task.state is TaskState.COUNTED and task.kind is TaskKind.TRAIN


def _ms(seconds: float) -> float:
    return seconds * 1e3
