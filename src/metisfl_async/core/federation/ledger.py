"""All tasks of a federation: moves them from state to state, and notes when."""

from __future__ import annotations

from collections.abc import Callable

from metisfl_async.core.federation.records import Failure
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.metrics import Json, Metrics

__all__ = ["Ledger"]

KEPT = 2  #: tasks of a learner that are over and still known: it may ask again, since an answer can be lost
MAX_LEARNERS = 10_000  #: whose tasks that are over are known; those asked longest ago are forgotten


class Ledger:
    """Keeps the books. A learner has one task at a time; each task fills its learner's part of a record."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.awaited: dict[LearnerId, Task] = {}  #: what is not over, oldest first
        self._over: dict[LearnerId, list[Task]] = {}  # what is, of the learner that reported last, last
        self._folded_at = clock()  # when the aggregator was done with its latest update

    def assign(self, task: Task) -> None:
        """Await a new task from now on."""
        task.made_at = task.offered_at = task.accepted_at = self._clock()
        self.awaited[task.learner] = task

    def find(self, learner: LearnerId, task_id: TaskId) -> Task | None:
        """Find a task of this learner, over or not; those of others are none of its business."""
        task = self.awaited.get(learner)
        if task is not None and task.id == task_id:
            return task
        return next((task for task in self._over.get(learner, ()) if task.id == task_id), None)

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

    def begin_upload(self, task: Task) -> None:
        """Note one more stream of an update; one that comes before its acknowledgement is as good."""
        self.accept(task)
        if task.state is TaskState.ACCEPTED:
            task.move_to(TaskState.UPLOADING)
        task.streams += 1
        task.upload_at = self._clock()

    def store(self, task: Task) -> None:
        task.move_to(TaskState.STORED)
        task.stored_at = self._clock()
        task.part.train_ms = _ms(task.upload_at - task.accepted_at)
        task.part.staging_ms = _ms(task.stored_at - task.upload_at)

    def count(self, task: Task, weight: float, metrics: Metrics, metadata: dict[str, Json]) -> None:
        """End a training task, or a request for first weights, as done."""
        part = task.part
        begun_at = max(task.stored_at, self._folded_at)  # the aggregator does one after another
        self._end(task, TaskState.COUNTED)
        part.weight, part.train_metrics, part.train_metadata = weight, metrics, metadata
        part.aggregation_ms = _ms(task.ended_at - begun_at)

    def evaluated(self, task: Task, metrics: Metrics) -> None:
        """End an evaluation as done."""
        self._end(task, TaskState.COUNTED)
        task.part.evaluation_metrics, task.part.evaluated_version = metrics, task.newest_version
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
        was_stored = task.state is TaskState.STORED
        task.move_to(state, reason)
        task.ended_at = self._clock()
        if was_stored:
            self._folded_at = task.ended_at
        del self.awaited[task.learner]
        self._over[task.learner] = [*self._over.pop(task.learner, []), task][-KEPT:]
        if len(self._over) > MAX_LEARNERS:
            del self._over[next(iter(self._over))]
        if task.kind is TaskKind.TRAIN:
            task.part.train_state = state.value


def _ms(seconds: float) -> float:
    return seconds * 1e3
