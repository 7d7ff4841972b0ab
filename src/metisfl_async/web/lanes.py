"""What learners did when: a row for each task, as far as it is known, and exact once its round's record is there."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from metisfl_async.core.federation.events import TaskMoved
from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.federation.tasks import TaskState
from metisfl_async.web.codes import COUNTED, REPORTED, code_of
from metisfl_async.web.rows import Rows

__all__ = ["MOST_TASKS", "Lanes", "outcome_of"]

MOST_TASKS = 10_000  #: the latest ones

_ENDINGS = {state.value for state in TaskState}


def outcome_of(failure_type: str) -> str:
    """Say in which state a task ended that did not count: some have an error's class instead."""
    return failure_type if failure_type in _ENDINGS else TaskState.FAILED.value


@dataclass(slots=True)
class _Task:
    """Times are milliseconds since the federation started; None: not yet, or unknown."""

    place: int  #: among all tasks
    learner: int
    number: int  #: of the round
    kind: str
    sent: float | None = None
    fetching: float | None = None
    working: float | None = None
    uploading: float | None = None
    ended: float | None = None
    outcome: str = ""  #: a state that ends a task, or "folded"
    staleness: int = 0

    def value(self) -> list[object]:
        """Give its row: its phases, a character each, and when each of them began; the last time is its end."""
        works = "E" if self.kind == "evaluate" else "T"
        known = (("W", self.sent), ("D", self.fetching), (works, self.working), ("U", self.uploading))
        marks = [(code, ms) for code, ms in known if ms is not None]
        if not marks and self.ended is not None:
            marks = [("W", self.ended)]
        times = [round(ms, 1) for _, ms in marks] + ([] if self.ended is None else [round(self.ended, 1)])
        title = f"{self.kind} in round {self.number}" + (f", staleness {self.staleness}" if self.staleness else "")
        outcome = code_of(self.outcome) if self.outcome else ""
        if outcome == COUNTED and self.kind != "train":
            outcome = REPORTED
        return [self.learner, title, "".join(code for code, _ in marks), times, outcome]


@dataclass(slots=True)
class Lanes:
    """The tasks of all learners, the latest `MOST_TASKS`."""

    rows: Rows
    _tasks: OrderedDict[str, _Task] = field(default_factory=OrderedDict)  # by task id
    _now: dict[int, _Task] = field(default_factory=dict)  # what each learner is at
    _folded: dict[int, deque[_Task]] = field(default_factory=dict)  # in no published model yet
    _total: int = 0

    def moved(self, learner: int, event: TaskMoved) -> None:
        """Take note of how far a learner is."""
        task = self._task(event.task_id, learner, event.number, event.task)
        self._now[learner] = task
        setattr(task, event.state, event.at_ms)
        if task.sent is None:
            task.sent = event.at_ms
        self._put(task)

    def ended(self, learner: int, outcome: str, at_ms: float) -> None:
        """Take note of the end of what a learner is at."""
        if (task := self._now.pop(learner, None)) is not None:
            task.ended, task.outcome = at_ms, outcome
            if outcome == TaskState.FOLDED.value:
                self._folded.setdefault(learner, deque(maxlen=8)).append(task)
            self._put(task)

    def all_ended(self, at_ms: float) -> None:
        """Take note that what all are at is done: the first weights are there, which one learner was asked for."""
        for learner in tuple(self._now):
            self.ended(learner, TaskState.COUNTED.value, at_ms)

    def counted(self, learner: int) -> None:
        """Take note that what a learner sent is in a published model."""
        if folded := self._folded.get(learner):
            task = folded.popleft()
            task.outcome = TaskState.COUNTED.value
            self._put(task)

    def recorded(self, learner: int, number: int, part: LearnerRecord, end_ms: float) -> None:
        """Take the exact times from a round's record."""
        self._folded.pop(learner, None)
        if part.train_task_id:
            task = self._task(part.train_task_id, learner, number, "train")
            task.sent = part.sent_ms
            if task.sent is not None:
                accepted = task.sent + (part.acknowledge_ms or 0.0)
                if part.fetch_ms is not None:
                    task.fetching, task.working = accepted, accepted + part.fetch_ms
                else:
                    task.fetching, task.working = None, accepted
                if part.train_ms is not None:
                    task.uploading = accepted + part.train_ms
            task.ended, task.outcome, task.staleness = part.ended_ms, part.train_state, part.staleness
            self._done(task)
        if part.evaluation_task_id:
            task = self._task(part.evaluation_task_id, learner, number, "evaluate")
            failed = next((failure.type for failure in part.failures if failure.task == "evaluate"), None)
            task.sent = part.evaluation_sent_ms
            if task.fetching is None and task.working is None:
                task.working = task.sent
            task.outcome = TaskState.COUNTED.value if failed is None else outcome_of(failed)
            if task.sent is not None and part.evaluation_ms is not None:
                task.ended = task.sent + part.evaluation_ms
            elif task.ended is None:
                task.ended = end_ms
            self._done(task)

    def _task(self, task_id: str, learner: int, number: int, kind: str) -> _Task:
        """Find a task, or begin its row."""
        task = self._tasks.get(task_id)
        if task is None:
            task = self._tasks[task_id] = _Task(self._total, learner, number, kind)
            self._total += 1
            if len(self._tasks) > MOST_TASKS:
                _, oldest = self._tasks.popitem(last=False)
                self.rows.drop("task", oldest.place)
        return task

    def _done(self, task: _Task) -> None:
        if self._now.get(task.learner) is task:
            del self._now[task.learner]
        self._put(task)

    def _put(self, task: _Task) -> None:
        if self._total - task.place <= MOST_TASKS:  # else its row is gone
            self.rows.put("task", task.place, value=task.value)
