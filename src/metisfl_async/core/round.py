"""The tasks of one attempt at a round, and the record that they fill."""

from __future__ import annotations

from collections.abc import Callable

from metisfl_async.core.ids import LearnerId, TaskId, new_task_id
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.records import Failure, LearnerRecord, RoundRecord
from metisfl_async.core.tasks import Task, TaskKind, TaskState

__all__ = ["Round"]


class Round:
    """Keeps the books of one attempt at a round: moves tasks from state to state, and notes when.

    Round 0 is the time before the first one, when learners are asked for first weights; nobody sees its record.
    """

    def __init__(self, number: int, model_version: int, clock: Callable[[], float], *, started_at: float) -> None:
        self._clock = clock
        self._opened_at = self._published_at = clock()
        self._folded_at = self._opened_at  # when the aggregator was done with its latest update
        self._tasks: dict[TaskId, Task] = {}
        self.awaited: dict[LearnerId, Task] = {}  #: what is not over; a learner has one task at a time
        self.record = RoundRecord(number, model_version, started_ms=_ms(self._opened_at - started_at))
        self.is_open = number > 0  #: whether the record still changes

    # --- tasks -----------------------------------------------------------------------------------------------------

    def assign(self, kind: TaskKind, learner: LearnerId, model_version: int, config: dict[str, Json]) -> Task:
        """Make a task, from now on awaited."""
        task = Task(new_task_id(), kind, learner, self.record.number, model_version, config)
        task.offered_at = task.accepted_at = self._clock()
        self._tasks[task.id] = self.awaited[learner] = task
        self.record.learners.setdefault(learner, LearnerRecord())
        return task

    def find(self, learner: LearnerId, task_id: TaskId) -> Task | None:
        """Find a task of this learner, over or not; those of others are none of its business."""
        task = self._tasks.get(task_id)
        return task if task is not None and task.learner == learner else None

    def tried(self) -> set[LearnerId]:
        """Say who was given a task."""
        return {task.learner for task in self._tasks.values()}

    def offer(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            task.move_to(TaskState.OFFERED)
        task.offered_at = self._clock()

    def accept(self, task: Task) -> None:
        if task.state is TaskState.OFFERED:
            task.move_to(TaskState.ACCEPTED)
            task.accepted_at = self._clock()
            if task.kind is TaskKind.TRAIN:
                self._part(task).acknowledge_ms = _ms(task.accepted_at - task.offered_at)

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
        part = self._part(task)
        part.train_ms = _ms(task.upload_at - task.accepted_at)
        part.staging_ms = _ms(task.stored_at - task.upload_at)

    def count(self, task: Task, weight: float, metrics: Metrics, metadata: dict[str, Json]) -> None:
        """End a training task, or a request for first weights, as done."""
        part = self._part(task)
        begun_at = max(task.stored_at, self._folded_at)  # the aggregator does one after another
        self._end(task, TaskState.COUNTED)
        part.weight, part.train_metrics, part.train_metadata = weight, metrics, metadata
        part.aggregation_ms = _ms(task.ended_at - begun_at)

    def evaluated(self, task: Task, metrics: Metrics) -> None:
        """End an evaluation as done."""
        part = self._part(task)
        self._end(task, TaskState.COUNTED)
        part.evaluation_metrics = metrics
        part.evaluation_ms = _ms(task.ended_at - task.offered_at)

    def fail(self, task: Task, state: TaskState, reason: str, error_type: str) -> None:
        """End a task in one of the other ways."""
        self._end(task, state, reason)
        task.error_type = error_type
        self._part(task).failures.append(Failure(task.kind.value, error_type, reason))

    def _end(self, task: Task, state: TaskState, reason: str = "") -> None:
        was_stored = task.state is TaskState.STORED
        task.move_to(state, reason)
        task.ended_at = self._clock()
        if was_stored:
            self._folded_at = task.ended_at
        del self.awaited[task.learner]
        if task.kind is TaskKind.TRAIN:
            self._part(task).train_state = state.value

    # --- the record ------------------------------------------------------------------------------------------------

    @property
    def num_counted(self) -> int:
        return sum(part.train_state == TaskState.COUNTED for part in self.record.learners.values())

    def failures(self) -> str:
        """Say why tasks did not count, and whose; learners with the same reason together, three reasons at most."""
        learners: dict[str, list[str]] = {}
        for task in self._tasks.values():
            if task.state.is_final and task.state is not TaskState.COUNTED:
                names = learners.setdefault(": ".join(filter(None, (task.error_type, task.reason))), [])
                if task.learner not in names:
                    names.append(task.learner)
        texts = [f"{_listed(names)}: {text}" for text, names in learners.items()]
        return "; ".join([*texts[:3], f"and {len(texts) - 3} more reasons"] if len(texts) > 3 else texts)

    def moved(self, learner: LearnerId, sent: int, received: int) -> None:
        """Count bytes that went to or came from a learner of the cohort."""
        if self.is_open and (part := self.record.learners.get(learner)):
            part.bytes_sent += sent
            part.bytes_received += received

    def publish(self) -> None:
        """Note that the mean is the new global model."""
        self._published_at = self._clock()
        self.record.is_published = True

    def close(self, weights: dict[str, float]) -> RoundRecord:
        """Complete the record, once every task is over; `weights` are the last known scaling factors."""
        record, self.is_open = self.record, False
        training = [task for task in self._tasks.values() if task.kind is TaskKind.TRAIN]
        evaluations = [task for task in self._tasks.values() if task.kind is TaskKind.EVALUATE]
        trained_at = max(task.ended_at for task in training)
        record.duration_ms = _ms(self._clock() - self._opened_at)
        record.dispatch_ms = _ms(max(task.accepted_at for task in training) - self._opened_at)
        record.train_ms = _ms(trained_at - self._opened_at)
        record.aggregation_ms = sum(part.aggregation_ms or 0.0 for part in record.learners.values())
        if record.is_published:
            record.aggregation_ms += _ms(self._published_at - trained_at)
        if evaluations:
            record.evaluation_ms = _ms(max(task.ended_at for task in evaluations) - self._published_at)
        record.close(weights)
        return record

    def _part(self, task: Task) -> LearnerRecord:
        return self.record.learners[task.learner]


def _ms(seconds: float) -> float:
    return seconds * 1e3


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
