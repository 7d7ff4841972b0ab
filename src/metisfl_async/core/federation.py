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
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.records import RoundRecord
from metisfl_async.core.round import Round
from metisfl_async.core.selection import select_cohort
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
        self._present: set[LearnerId] = set()  # have joined, and are not given up
        self._connected: set[LearnerId] = set()  # those of them that are connected now
        self._weights: dict[str, float] = {}  # last known scaling factors
        self._round = self._earlier = Round(0, 0, clock, started_at=clock())  # all tasks of the earlier one are over
        self._signals = TerminationSignals(federation_rounds=1)
        self._needed = config.min_learners
        self._random = random.Random()
        self._failed_rounds = 0
        self._started_at: float | None = None
        self._gather_at = 0.0
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
        return sorted(self._connected)

    @property
    def num_connected(self) -> int:
        return len(self._connected)

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
        self._present.add(learner)
        self._connected.add(learner)
        self._announce(LearnerJoined(learner, self.num_connected))
        verdicts = {held_task.task_id: self._judge(learner, held_task) for held_task in held}
        task = self._round.awaited.get(learner)
        if task is not None and task.id not in verdicts:
            if task.state in (TaskState.PENDING, TaskState.OFFERED):
                self._offer(task)
            elif task.state is not TaskState.STORED:
                self._give_up(task, TaskState.LOST, "the learner came back without it")
        self._progress()
        return verdicts, self._take()

    def disconnected(self, learner: LearnerId, reason: str) -> list[Command]:
        """Note that a connection broke; the learner may come back within its lease."""
        if learner in self._connected:
            self._connected.remove(learner)
            self._announce(LearnerLeft(learner, self.num_connected, reason))
        return self._take()

    def left(self, learner: LearnerId, reason: str) -> list[Command]:
        """Give up on a learner: it said goodbye, or was silent for too long."""
        self._present.discard(learner)
        if learner in self._connected:
            self._connected.remove(learner)
            self._announce(LearnerLeft(learner, self.num_connected, reason))
        task = self._round.awaited.get(learner)
        if task is not None and task.state is not TaskState.STORED:
            self._give_up(task, TaskState.LOST, reason)
        self._progress()
        return self._take()

    # --- tasks and their outcomes ----------------------------------------------------------------------------------

    def accepted(self, learner: LearnerId, task_id: TaskId) -> list[Command]:
        """Note an acknowledgement."""
        if (task := self._find(learner, task_id)) is not None:
            self._round.accept(task)
        return self._take()

    def failed(self, learner: LearnerId, task_id: TaskId, error_type: str, message: str) -> list[Command]:
        """Note that a learner could not do a task."""
        task = self._find(learner, task_id)
        if task is not None and not task.state.is_final and task.state is not TaskState.STORED:
            self._give_up(task, TaskState.FAILED, message, error_type)
            self._progress()
        return self._take()

    def admit(self, learner: LearnerId, task_id: TaskId) -> Task | UpdateReply:
        """Decide on the header of an update: the task to receive it for, or the answer if it is not wanted.

        Unless the task is STORED already, `interrupted`, `arrived` or `rejected` must follow.
        """
        task = self._find(learner, task_id)
        if task is None or task.kind is TaskKind.EVALUATE:
            return UpdateReply(False, "no such task; its round is over")
        if task.state.is_final:
            return UpdateReply(task.state is TaskState.COUNTED, _why(task))
        if task.state is not TaskState.STORED:  # a second stream of the same update: the first one is given up
            self._round.begin_upload(task)
        return task

    def interrupted(self, task: Task) -> list[Command]:
        """Note that an update's stream broke; its learner still has it, and may have begun another stream."""
        task.streams -= 1
        if task.state is TaskState.UPLOADING and not task.streams:
            task.move_to(TaskState.ACCEPTED)
        return self._take()

    def arrived(self, task: Task) -> str | None:
        """Take in a whole, undamaged update; None if it may be folded, or why not."""
        if task.state is not TaskState.UPLOADING:
            return _why(task)
        self._round.store(task)
        return None

    def counted(self, task: Task, weight: float, metrics: Metrics, metadata: dict[str, Json]) -> list[Command]:
        """Note that an update was folded; for first weights: that they are the global model."""
        if task.state is TaskState.STORED:
            self._round.count(task, weight, metrics, metadata)
            if task.kind is TaskKind.GET_WEIGHTS:
                self.model_version = self._failed_rounds = 0
            else:
                self._weights[task.learner] = weight
                self._announce(UpdateCounted(task.round_number, task.learner, weight, metrics))
            self._progress()
        return self._take()

    def rejected(self, task: Task, error_type: str, reason: str) -> list[Command]:
        """Note that an update was refused."""
        if not task.state.is_final:
            self._give_up(task, TaskState.REJECTED, reason, error_type)
            self._progress()
        return self._take()

    def evaluated(self, learner: LearnerId, task_id: TaskId, metrics: Metrics) -> list[Command]:
        """Take in the result of an evaluation."""
        task = self._find(learner, task_id)
        if task is not None and task.kind is TaskKind.EVALUATE and not task.state.is_final:
            self._round.evaluated(task, metrics)
            self._announce(LearnerEvaluated(task.round_number, learner, metrics))
            self._progress()
        return self._take()

    def moved(self, learner: LearnerId, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes that went to or came from a learner."""
        self._round.moved(learner, sent, received)

    # --- time, and the aggregator ----------------------------------------------------------------------------------

    def gather_timed_out(self) -> list[Command]:
        """End it for lack of learners."""
        if self.phase is Phase.GATHERING:
            waited = self._clock() - self._gather_at
            who = ", ".join(self.connected) or "nobody"
            self._finish(
                f"{self.num_connected} of {self._needed} learners are connected after {waited:.0f} s ({who})",
                is_failure=True,
            )
        return self._take()

    def phase_timed_out(self) -> list[Command]:
        """Close the phase with what is there; updates that are whole already still count."""
        for task in tuple(self._round.awaited.values()):
            if task.state is not TaskState.STORED:
                state = TaskState.LATE if task.state is TaskState.UPLOADING else TaskState.EXPIRED
                timeout = f"round_timeout_secs={self.config.round_timeout_secs:g}"
                self._give_up(task, state, f"round {task.round_number} did not wait longer than {timeout}")
        self._progress()
        return self._take()

    def cutoff_passed(self) -> list[Command]:
        """End it by the time limit."""
        self._finish(f"execution_cutoff_time_mins={self._signals.execution_cutoff_time_mins:g} reached")
        return self._take()

    def published(self, version: int) -> list[Command]:
        """Go on with a new global model."""
        if self.phase is Phase.AGGREGATING:
            self._failed_rounds = 0
            self.model_version = version
            self._round.publish()
            self._announce(ModelPublished(self._round.record.number, version))
            self._evaluate(version)
        return self._take()

    # --- what happens next -----------------------------------------------------------------------------------------

    def _progress(self) -> None:
        """Leave the phase if nothing more is awaited in it."""
        if self._round.awaited:
            return
        match self.phase:
            case Phase.GATHERING if self.num_connected >= self._needed:
                self._do(StopTimer("gather"))
                self._begin()
                if self.model_version is None:
                    self._initialise()
                else:
                    self._open_round()
            case Phase.INITIALISING if self.model_version is None:
                self._try_again("no learner gave the first weights")
            case Phase.INITIALISING:
                self._gather(self.config.min_learners, self.config.quorum_timeout_secs)
            case Phase.TRAINING:
                self._end_training()
            case Phase.EVALUATING:
                self._end_round()
            case _:
                pass

    def _gather(self, needed: int, timeout_s: float | None) -> None:
        self._needed, self._gather_at = needed, self._clock()
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
        """Ask one learner for first weights; those that did not give them come last."""
        self._enter(Phase.INITIALISING)
        tried = self._round.tried()
        candidates = [learner for learner in self.connected if learner not in tried] or self.connected
        self._offer(self._round.assign(TaskKind.GET_WEIGHTS, self._random.choice(candidates), 0, {}))

    def _open_round(self) -> None:
        assert self._started_at is not None
        assert self.model_version is not None
        number = 1 + sum(record.is_published for record in self.records)
        version = self.model_version
        cohort = select_cohort(self.connected, self.config.participation_ratio, self.config.min_learners, self._random)
        self._earlier, self._round = self._round, Round(number, version, self._clock, started_at=self._started_at)
        self._enter(Phase.TRAINING)
        self._announce(RoundStarted(number, version, list(cohort)))
        for learner in cohort:
            self._offer(self._round.assign(TaskKind.TRAIN, learner, version, self.config.train_params))

    def _end_training(self) -> None:
        assert self.model_version is not None
        counted, needed = self._round.num_counted, self.config.min_learners
        if counted >= needed:
            self._enter(Phase.AGGREGATING)
            self._do(Aggregate(self.model_version + 1))
        else:
            self._do(Discard())
            self._close_round()
            self._try_again(f"round {self._round.record.number} has {counted} of min_learners={needed} updates")

    def _evaluate(self, version: int) -> None:
        """Ask the cohort; who is away gets its task on coming back."""
        self._enter(Phase.EVALUATING)
        record, every = self._round.record, self.config.evaluate_every
        if every and record.number % every == 0:
            for learner in map(LearnerId, record.learners):
                if learner in self._present:
                    task = self._round.assign(TaskKind.EVALUATE, learner, version, self.config.eval_params)
                    if learner in self._connected:
                        self._offer(task)
        self._progress()

    def _end_round(self) -> None:
        self._close_round()
        if reason := reason_to_stop(self._signals, self.records):
            self._finish(reason)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _try_again(self, what: str) -> None:
        """Go back to gathering after a round, or a request for first weights, that came to nothing."""
        self._failed_rounds += 1
        if self._failed_rounds >= self.config.max_failed_rounds:
            last = self._round.failures()
            self._finish(f"{what}, {self._failed_rounds} times in a row; last: {last}", is_failure=True)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _finish(self, reason: str, *, is_failure: bool = False) -> None:
        if self.is_finished:
            return
        for task in tuple(self._round.awaited.values()):
            self._give_up(task, TaskState.CANCELLED, "the federation ended")
        if self._round.is_open:
            self._close_round()
        self.phase = Phase.FINISHED
        self._do(StopTimer("gather"), StopTimer("phase"), StopTimer("cutoff"), Discard())
        self._announce(FederationFinished(reason, is_failure))
        self._do(Finish(reason, is_failure))

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _offer(self, task: Task) -> None:
        self._round.offer(task)
        self._do(Offer(task))

    def _judge(self, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        """Say what a learner should do with a task that it holds; it holds only what it was offered."""
        task = self._find(learner, held.task_id)
        if task is None:
            return Verdict.DISCARD, "no such task; its round is over"
        if task.state.is_final:
            return Verdict.DISCARD, _why(task)
        self._round.accept(task)
        return (Verdict.UPLOAD, "its outcome is awaited") if held.is_done else (Verdict.CONTINUE, "it is awaited")

    def _find(self, learner: LearnerId, task_id: TaskId) -> Task | None:
        return self._round.find(learner, task_id) or self._earlier.find(learner, task_id)

    def _give_up(self, task: Task, state: TaskState, reason: str, error_type: str = "") -> None:
        """End a task that does not count, and say so; its learner is told unless it told us."""
        error_type = error_type or state.value
        self._round.fail(task, state, reason, error_type)
        self._announce(TaskFailed(task.round_number, task.learner, task.kind.value, error_type, reason))
        if state in (TaskState.EXPIRED, TaskState.LATE, TaskState.CANCELLED):
            self._do(Withdraw(task))

    def _close_round(self) -> None:
        record = self._round.close(self._weights)
        self.records.append(record)
        self._announce(RoundFinished(record))

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        timeout_s = self.config.round_timeout_secs
        if timeout_s is not None:
            is_timed = phase in (Phase.INITIALISING, Phase.TRAINING, Phase.EVALUATING)
            self._do(StartTimer("phase", timeout_s) if is_timed else StopTimer("phase"))

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
