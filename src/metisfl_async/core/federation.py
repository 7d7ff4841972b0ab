"""A federation's decisions: who is asked, when a round is over, what happens next.

Nothing here waits or does anything. Each method takes in one thing that happened and returns the commands that follow
from it; the controller carries them out in order. Time is read from the clock that is passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from enum import StrEnum

from metisfl_async.core.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Offer,
    StartTimer,
    StopTimer,
    Withdraw,
)
from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.events import (
    Event,
    FederationFinished,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateCounted,
)
from metisfl_async.core.ids import LearnerId, TaskId, new_task_id
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.records import Failure, LearnerRecord, RoundRecord
from metisfl_async.core.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.termination import cutoff_s, reason_to_stop

__all__ = ["Federation", "Phase"]


class Phase(StrEnum):
    IDLE = "idle"  #: nobody has started it
    GATHERING = "gathering"  #: waiting for enough learners
    INITIALISING = "initialising"  #: waiting for the first weights
    TRAINING = "training"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    FINISHED = "finished"


class Federation:
    """Decides for one federation, from its start to its end, under the Synchronous scheduler."""

    def __init__(self, config: ControllerConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self.phase = Phase.IDLE
        self.model_version: int | None = None
        self.records: list[RoundRecord] = []
        self._clock = clock
        self._is_connected: dict[LearnerId, bool] = {}
        self._weights: dict[str, float] = {}  # last known scaling factors
        self._tasks: dict[TaskId, Task] = {}  # of this round
        self._ended_tasks: dict[TaskId, Task] = {}  # of the one before: all final
        self._awaited: set[TaskId] = set()  # what the phase waits for: never final
        self._record: RoundRecord | None = None
        self._signals = TerminationSignals(federation_rounds=1)
        self._needed = config.min_learners
        self._random = random.Random()
        self._failed_rounds = 0
        self._started_at: float | None = None
        self._phase_at = self._round_at = clock()
        self._commands: list[Command] = []

    # --- the driver ------------------------------------------------------------------------------------------------

    def start(
        self, signals: TerminationSignals, *, num_learners: int, seed: int, join_timeout_s: float | None
    ) -> list[Command]:
        """Begin once `num_learners` are connected; the learner that gives the first weights is drawn with `seed`."""
        if self.phase is not Phase.IDLE:
            raise UnexpectedMessage(f"training was started before; the federation is {self.phase}")
        self._signals, self._random = signals, random.Random(seed)
        self._gather(max(num_learners, self.config.min_learners), join_timeout_s)
        return self._take()

    def model_given(self) -> list[Command]:
        """Take note of first weights that did not come from a learner: version 0."""
        if self.phase not in (Phase.IDLE, Phase.GATHERING) or self.model_version is not None:
            raise UnexpectedMessage(f"the first weights are there already; the federation is {self.phase}")
        self.model_version = 0
        return self._take()

    def stop(self, reason: str, *, is_failure: bool = False) -> list[Command]:
        """End it now; what is under way is not waited for."""
        self._finish(reason, is_failure=is_failure)
        return self._take()

    @property
    def is_finished(self) -> bool:
        return self.phase is Phase.FINISHED

    # --- learners come and go --------------------------------------------------------------------------------------

    @property
    def connected(self) -> list[LearnerId]:
        """Learners that are connected now, sorted."""
        return sorted(learner for learner, is_connected in self._is_connected.items() if is_connected)

    @property
    def num_connected(self) -> int:
        return sum(self._is_connected.values())

    def joined(
        self, learner: LearnerId, held: Collection[HeldTask] = ()
    ) -> tuple[dict[TaskId, tuple[Verdict, str]], list[Command]]:
        """Take in a learner that connected, for the first time or again, with the tasks it holds.

        Returns
        -------
        verdicts : dict
            For each task that it holds: what to do with it, and why.
        commands : list
        """
        self._is_connected[learner] = True
        self._announce(LearnerJoined(learner, self.num_connected))
        verdicts = {held_task.task_id: self._judge(learner, held_task) for held_task in held}
        for task in self._awaited_from(learner):
            if task.id in verdicts:
                continue
            if task.state in (TaskState.PENDING, TaskState.OFFERED):
                self._offer(task)
            elif task.state is not TaskState.STORED:
                self._settle(task, TaskState.LOST, "the learner came back without it")
        self._progress()
        return verdicts, self._take()

    def disconnected(self, learner: LearnerId, reason: str) -> list[Command]:
        """Note that a connection broke; the learner may come back within its lease."""
        if self._is_connected.get(learner):
            self._is_connected[learner] = False
            self._announce(LearnerLeft(learner, self.num_connected, reason))
        return self._take()

    def left(self, learner: LearnerId, reason: str) -> list[Command]:
        """Give up on a learner: it said goodbye, or was silent for too long."""
        if self._is_connected.pop(learner, False):
            self._announce(LearnerLeft(learner, self.num_connected, reason))
        for task in self._awaited_from(learner):
            if task.state is not TaskState.STORED:
                self._settle(task, TaskState.LOST, reason)
        self._progress()
        return self._take()

    # --- tasks and their outcomes ----------------------------------------------------------------------------------

    def accepted(self, learner: LearnerId, task_id: TaskId) -> list[Command]:
        """Note an acknowledgement."""
        task = self._task_of(learner, task_id)
        if task is not None and task.state is TaskState.OFFERED:
            self._accept(task)
        return self._take()

    def failed(self, learner: LearnerId, task_id: TaskId, error_type: str, message: str) -> list[Command]:
        """Note that a learner could not do a task."""
        task = self._task_of(learner, task_id)
        if task is not None and not task.state.is_final and task.state is not TaskState.STORED:
            self._settle(task, TaskState.FAILED, message, error_type)
            self._progress()
        return self._take()

    def admit(self, learner: LearnerId, task_id: TaskId) -> Task | UpdateReply:
        """Decide on the header of an update: the task to receive it for, or the answer if it is not wanted."""
        task = self._task_of(learner, task_id)
        if task is None or task.kind is TaskKind.EVALUATE:
            return UpdateReply(False, "no such task; its round is over")
        if task.state.is_final:
            return UpdateReply(task.state is TaskState.COUNTED, _why(task))
        if task.state is not TaskState.STORED:  # a second stream of the same update: the first one is given up
            if task.state is TaskState.OFFERED:
                task.accepted_at = self._clock()
            task.upload_at = self._clock()
            task.move_to(TaskState.UPLOADING)
        return task

    def interrupted(self, task: Task) -> list[Command]:
        """Note that an update's stream broke; its learner still has it."""
        if task.state is TaskState.UPLOADING:
            task.move_to(TaskState.ACCEPTED)
        return self._take()

    def arrived(self, task: Task) -> str | None:
        """Take in a whole, undamaged update; None if it may be folded, or why not."""
        if task.state is not TaskState.UPLOADING:
            return _why(task)
        task.move_to(TaskState.STORED)
        task.stored_at = self._clock()
        if part := self._part(task):
            part.train_ms = (task.upload_at - task.accepted_at) * 1e3
            part.staging_ms = (task.stored_at - task.upload_at) * 1e3
        return None

    def counted(self, task: Task, weight: float, metrics: Metrics, metadata: dict[str, Json]) -> list[Command]:
        """Note that an update was folded; for first weights: that they are the global model."""
        if task.state is TaskState.STORED:
            self._settle(task, TaskState.COUNTED)
            if task.kind is TaskKind.GET_WEIGHTS:
                self.model_version = self._failed_rounds = 0
            elif part := self._part(task):
                part.weight, part.train_metrics, part.train_metadata = weight, metrics, metadata
                part.aggregation_ms = (self._clock() - task.stored_at) * 1e3
                self._weights[task.learner] = weight
                self._announce(UpdateCounted(task.round_number, task.learner, weight, metrics))
            self._progress()
        return self._take()

    def rejected(self, task: Task, error_type: str, reason: str) -> list[Command]:
        """Note that an update was refused."""
        if not task.state.is_final:
            self._settle(task, TaskState.REJECTED, reason, error_type)
            self._progress()
        return self._take()

    def evaluated(self, learner: LearnerId, task_id: TaskId, metrics: Metrics) -> list[Command]:
        """Take in the result of an evaluation."""
        task = self._task_of(learner, task_id)
        if task is not None and task.kind is TaskKind.EVALUATE and not task.state.is_final:
            self._settle(task, TaskState.COUNTED)
            if part := self._part(task):
                part.evaluation_metrics = metrics
                part.evaluation_ms = (self._clock() - task.offered_at) * 1e3
            self._announce(LearnerEvaluated(task.round_number, learner, metrics))
            self._progress()
        return self._take()

    def moved(self, learner: LearnerId, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes that went to or came from a learner."""
        if self._record is not None and (part := self._record.learners.get(learner)):
            part.bytes_sent += sent
            part.bytes_received += received

    # --- time, and the aggregator ----------------------------------------------------------------------------------

    def gather_timed_out(self) -> list[Command]:
        """End it for lack of learners."""
        if self.phase is Phase.GATHERING:
            waited = self._clock() - self._phase_at
            who = ", ".join(self.connected) or "nobody"
            self._finish(
                f"{self.num_connected} of {self._needed} learners are connected after {waited:.0f} s ({who})",
                is_failure=True,
            )
        return self._take()

    def phase_timed_out(self) -> list[Command]:
        """Close the phase with what is there; updates that are whole already still count."""
        for task in [self._tasks[task_id] for task_id in self._awaited]:
            if task.state is not TaskState.STORED:
                state = TaskState.LATE if task.state is TaskState.UPLOADING else TaskState.EXPIRED
                timeout = f"round_timeout_secs={self.config.round_timeout_secs:g}"
                self._settle(task, state, f"round {task.round_number} did not wait longer than {timeout}")
        self._progress()
        return self._take()

    def cutoff_passed(self) -> list[Command]:
        """End it by the time limit."""
        self._finish(f"execution_cutoff_time_mins={self._signals.execution_cutoff_time_mins:g} reached")
        return self._take()

    def published(self, version: int) -> list[Command]:
        """Go on with a new global model."""
        record = self._record
        if self.phase is Phase.AGGREGATING and record is not None:
            now = self._clock()
            folding = sum(part.aggregation_ms or 0.0 for part in record.learners.values())
            record.aggregation_ms = (now - self._phase_at) * 1e3 + folding
            record.is_published = True
            self._failed_rounds = 0
            self.model_version = version
            self._announce(ModelPublished(record.number, version))
            self._evaluate(record)
        return self._take()

    # --- what happens next -----------------------------------------------------------------------------------------

    def _progress(self) -> None:
        """Leave the phase if nothing more is awaited in it."""
        if self._awaited:
            return
        if self.phase is Phase.GATHERING and self.num_connected >= self._needed:
            self._do(StopTimer("gather"))
            self._begin()
            if self.model_version is None:
                self._initialise()
            else:
                self._open_round()
        elif self.phase is Phase.INITIALISING:
            if self.model_version is None:
                self._try_again("no learner gave the first weights")
            else:
                self._open_round()
        elif self.phase is Phase.TRAINING:
            self._end_training()
        elif self.phase is Phase.EVALUATING:
            self._end_round()

    def _gather(self, needed: int, timeout_s: float | None) -> None:
        self._needed = needed
        self._enter(Phase.GATHERING)
        if timeout_s is not None:
            self._do(StartTimer("gather", timeout_s))
        self._progress()

    def _begin(self) -> None:
        """Start the federation's clock, the first time that enough learners are there."""
        if self._started_at is None:
            self._started_at = self._clock()
            if (seconds := cutoff_s(self._signals)) is not None:
                self._do(StartTimer("cutoff", seconds))

    def _initialise(self) -> None:
        self._enter(Phase.INITIALISING)
        tried = {task.learner for task in self._tasks.values()}
        candidates = [learner for learner in self.connected if learner not in tried] or self.connected
        self._assign(TaskKind.GET_WEIGHTS, self._random.choice(candidates), 0, {})

    def _open_round(self) -> None:
        number = 1 + sum(record.is_published for record in self.records)
        cohort = self.connected
        version = self.model_version or 0
        self._ended_tasks, self._tasks = self._tasks, {}
        self._round_at = self._clock()
        self._record = RoundRecord(
            number,
            version,
            started_ms=(self._round_at - (self._started_at or 0.0)) * 1e3,
            learners={learner: LearnerRecord() for learner in cohort},
        )
        self._enter(Phase.TRAINING)
        self._announce(RoundStarted(number, version, list(cohort)))
        for learner in cohort:
            self._assign(TaskKind.TRAIN, learner, number, self.config.train_params)

    def _end_training(self) -> None:
        record = self._record
        assert record is not None
        now = self._clock()
        record.train_ms = (now - self._round_at) * 1e3
        accepted = [task.accepted_at for task in self._tasks.values() if task.kind is TaskKind.TRAIN]
        record.dispatch_ms = (max(accepted) - self._round_at) * 1e3
        counted = sum(part.train_state == TaskState.COUNTED for part in record.learners.values())
        if counted >= self.config.min_learners:
            self._enter(Phase.AGGREGATING)
            self._do(Aggregate((self.model_version or 0) + 1))
        else:
            self._do(Discard())
            self._close_record()
            self._try_again(f"round {record.number} has {counted} of min_learners={self.config.min_learners} updates")

    def _evaluate(self, record: RoundRecord) -> None:
        self._enter(Phase.EVALUATING)
        every = self.config.evaluate_every
        if every and record.number % every == 0:
            for learner in record.learners:
                if LearnerId(learner) in self._is_connected:
                    self._assign(TaskKind.EVALUATE, LearnerId(learner), record.number, self.config.eval_params)
        self._progress()

    def _end_round(self) -> None:
        record = self._record
        assert record is not None
        record.evaluation_ms = (self._clock() - self._phase_at) * 1e3
        self._close_record()
        if reason := reason_to_stop(self._signals, self.records):
            self._finish(reason)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _try_again(self, what: str) -> None:
        """Go back to gathering after a round, or a request for first weights, that came to nothing."""
        self._failed_rounds += 1
        if self._failed_rounds >= self.config.max_failed_rounds:
            self._finish(
                f"{what}, {self._failed_rounds} times in a row; last: {self._last_failures()}", is_failure=True
            )
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _last_failures(self) -> str:
        failed = [task for task in self._tasks.values() if task.state is not TaskState.COUNTED]
        texts = [f"{task.learner}: {task.reason}" for task in failed[:3]]
        if len(failed) > len(texts):
            texts.append(f"and {len(failed) - len(texts)} more")
        return "; ".join(texts)

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _finish(self, reason: str, *, is_failure: bool = False) -> None:
        if self.phase is Phase.FINISHED:
            return
        for task_id in tuple(self._awaited):
            self._settle(self._tasks[task_id], TaskState.CANCELLED, "the federation ended")
        if self._record is not None:
            self._close_record()
        self._enter(Phase.FINISHED)
        self._do(StopTimer("gather"), StopTimer("phase"), StopTimer("cutoff"), Discard())
        self._announce(FederationFinished(reason, is_failure))
        self._do(Finish(reason, is_failure))

    def _awaited_from(self, learner: LearnerId) -> list[Task]:
        return [self._tasks[task_id] for task_id in self._awaited if self._tasks[task_id].learner == learner]

    def _assign(self, kind: TaskKind, learner: LearnerId, number: int, config: dict[str, Json]) -> None:
        task = Task(new_task_id(), kind, learner, number, self.model_version or 0, config)
        self._tasks[task.id] = task
        self._awaited.add(task.id)
        task.offered_at = task.accepted_at = self._clock()
        if self._is_connected[learner]:
            self._offer(task)

    def _offer(self, task: Task) -> None:
        if task.state is TaskState.PENDING:
            task.move_to(TaskState.OFFERED)
        task.offered_at = self._clock()
        self._do(Offer(task))

    def _accept(self, task: Task) -> None:
        task.move_to(TaskState.ACCEPTED)
        task.accepted_at = self._clock()
        if task.kind is TaskKind.TRAIN and (part := self._part(task)):
            part.acknowledge_ms = (task.accepted_at - task.offered_at) * 1e3

    def _judge(self, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        task = self._task_of(learner, held.task_id)
        if task is None:
            return Verdict.DISCARD, "no such task; its round is over"
        if task.state.is_final:
            return Verdict.DISCARD, _why(task)
        if task.state is TaskState.PENDING:
            task.move_to(TaskState.OFFERED)
        if task.state is TaskState.OFFERED:
            self._accept(task)
        return (Verdict.UPLOAD, "its outcome is awaited") if held.is_done else (Verdict.CONTINUE, "it is awaited")

    def _settle(self, task: Task, state: TaskState, reason: str = "", error_type: str | None = None) -> None:
        """End a task, and note how."""
        task.move_to(state, reason)
        self._awaited.discard(task.id)
        part = self._part(task)
        if part is not None and task.kind is TaskKind.TRAIN:
            part.train_state = state.value
        if state is TaskState.COUNTED:
            return
        failure = Failure(task.kind.value, error_type or state.value, reason)
        if part is not None:
            part.failures.append(failure)
        self._announce(TaskFailed(task.round_number, task.learner, failure.task, failure.type, failure.message))
        if state in (TaskState.EXPIRED, TaskState.LATE, TaskState.CANCELLED):
            self._do(Withdraw(task))

    def _close_record(self) -> None:
        record = self._record
        assert record is not None
        self._record = None
        record.duration_ms = (self._clock() - self._round_at) * 1e3
        record.close(self._weights)
        self.records.append(record)
        self._do(StopTimer("phase"))
        self._announce(RoundFinished(record))

    def _task_of(self, learner: LearnerId, task_id: TaskId) -> Task | None:
        task = self._tasks.get(task_id) or self._ended_tasks.get(task_id)
        return task if task is not None and task.learner == learner else None

    def _part(self, task: Task) -> LearnerRecord | None:
        return self._record.learners.get(task.learner) if self._record is not None else None

    def _enter(self, phase: Phase) -> None:
        self.phase, self._phase_at = phase, self._clock()
        if phase in (Phase.INITIALISING, Phase.TRAINING, Phase.EVALUATING) and self.config.round_timeout_secs:
            self._do(StartTimer("phase", self.config.round_timeout_secs))

    def _announce(self, event: Event) -> None:
        self._do(Announce(event))

    def _do(self, *commands: Command) -> None:
        self._commands.extend(commands)

    def _take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands


def _why(task: Task) -> str:
    """Say to its learner why an outcome is not wanted any more."""
    if task.state is TaskState.COUNTED:
        return "it was counted already"
    return f"the task is {task.state}" + (f": {task.reason}" if task.reason else "")
