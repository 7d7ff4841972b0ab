"""Updates on their way: which stream brings which, and which streams wait to hear what became of it."""

from __future__ import annotations

from collections.abc import Callable

from metisfl_async.core.federation.commands import Abandon, Announce, Answer, Command, Fold, Receive
from metisfl_async.core.federation.events import TaskFailed
from metisfl_async.core.federation.inputs import Admit
from metisfl_async.core.federation.ledger import Ledger
from metisfl_async.core.federation.records import Failure
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import StreamId
from metisfl_async.core.messages import Outcome, UpdateReply

__all__ = ["ENDED", "UNKNOWN", "Uploads", "reply_of", "why"]

TAKEN = (TaskState.RECEIVED, TaskState.FOLDED, TaskState.COUNTED)
UNKNOWN = "no such task; its round is over"
ENDED = "the federation ended"
OTHER_CONTENT = "another update of the same task was taken in before; a task has one outcome"
MOST_DAMAGES = 3  #: of one update; then its learner, or its link, is at fault


class Uploads:
    """Moves tasks while their updates come. A learner that tries again opens a second stream; the latest one wins."""

    def __init__(self, ledger: Ledger, do: Callable[[Command], None]) -> None:
        self._ledger, self._do = ledger, do
        self._tasks: dict[StreamId, Task] = {}  # of the streams that have no answer yet

    def task_of(self, stream: StreamId) -> Task | None:
        """Find whose update the stream brings; None once it has its answer, or was abandoned."""
        return self._tasks.get(stream)

    def admit(self, admit: Admit, *, is_finished: bool) -> None:
        """Decide on a header: receive the update, answer at once, or answer with the stream that came before.

        When the federation is finished, no more is known of a task that is not known.
        """
        stream, task = admit.stream, self._ledger.find(admit.learner, admit.task_id)
        if task is None or task.kind is TaskKind.EVALUATE:
            unknown = UpdateReply(Outcome.CANCELLED, ENDED) if is_finished else UpdateReply(Outcome.REFUSED, UNKNOWN)
            self._do(Answer(stream, unknown))
            return
        if task.content not in (b"", admit.content) and task.state in TAKEN:
            task.part.failures.append(Failure(task.kind.value, "OtherContent", OTHER_CONTENT))
            failed = TaskFailed(task.round_number, task.learner, task.kind.value, "OtherContent", OTHER_CONTENT)
            self._do(Announce(failed))
            self._do(Answer(stream, UpdateReply(Outcome.REFUSED, OTHER_CONTENT)))
            return
        if task.state.is_final or task.state is TaskState.FOLDED:
            self._do(Answer(stream, reply_of(task)))
            return
        self._tasks[stream] = task
        if task.state is TaskState.RECEIVED:
            task.streams.append(stream)
            return
        for older in task.streams:
            del self._tasks[older]
            self._do(Abandon(older))
        task.streams = [stream]
        task.model_version = min(max(admit.trained_from, task.model_version), task.newest_version)
        task.content = admit.content
        self._ledger.begin_upload(task)
        self._do(Receive(stream, task.kind, task.model_version))

    def interrupted(self, stream: StreamId) -> None:
        """Take note of a stream that broke; one whose update is whole already changes nothing."""
        task = self._tasks.get(stream)
        if task is not None and task.state is TaskState.UPLOADING:
            del self._tasks[stream]
            task.streams = []
            task.move_to(TaskState.ACCEPTED)

    def arrived(self, stream: StreamId, written: Callable[[], str]) -> None:
        """Take in an update that is whole; first weights are saved with what `written` says."""
        task = self._tasks.get(stream)
        if task is not None and task.state is TaskState.UPLOADING:
            self._ledger.receive(task)
            self._do(Fold(stream, written() if task.kind is TaskKind.GET_WEIGHTS else ""))

    def damaged(self, stream: StreamId, reason: str) -> bool:
        """Let an update that was damaged on its way come again; say whether that was once too often."""
        task = self._tasks.get(stream)
        if task is None or task.state is not TaskState.UPLOADING:
            return False
        task.damages += 1
        if task.damages > MOST_DAMAGES:
            return True
        self.settle(task, UpdateReply(Outcome.DAMAGED, reason))
        task.move_to(TaskState.ACCEPTED)
        return False

    def settle(self, task: Task, reply: UpdateReply) -> None:
        """Tell every stream of a task what became of the update."""
        for stream in task.streams:
            del self._tasks[stream]
            self._do(Answer(stream, reply))
        task.streams = []


def reply_of(task: Task) -> UpdateReply:
    """Say what became of an update that is folded, or whose task is over."""
    if task.state is TaskState.FOLDED:
        return UpdateReply(Outcome.FOLDED)
    outcomes = {TaskState.COUNTED: Outcome.COUNTED, TaskState.CANCELLED: Outcome.CANCELLED}
    return UpdateReply(outcomes.get(task.state, Outcome.REFUSED), why(task))


def why(task: Task) -> str:
    """Say to its learner why an outcome is not wanted any more."""
    if task.state is TaskState.COUNTED:
        return "it was counted already"
    return f"the task is {task.state}" + (f": {task.reason}" if task.reason else "")
