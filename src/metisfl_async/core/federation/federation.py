"""A federation's decisions, as far as they are the same with rounds and without: learners, tasks, time, the end.

`in_rounds` and `continuous` have the rest: who is asked, when a global model is due, what comes next. Nothing here
waits or does anything. Each method takes in one thing that happened and returns the commands that follow from it; the
controller carries them out in order. Time is read from the clock that is passed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.federation.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Forget,
    Offer,
    StartTimer,
    StopTimer,
    Withdraw,
)
from metisfl_async.core.federation.events import (
    Event,
    FederationFinished,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    TaskFailed,
    UpdateCounted,
)
from metisfl_async.core.federation.ledger import Ledger
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.federation.termination import cutoff_s
from metisfl_async.core.ids import LearnerId, TaskId, new_task_id
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.strategies.scheduling import Timing, timing_of
from metisfl_async.core.strategies.strategies import Strategies

__all__ = ["Federation", "Phase"]


class Phase(StrEnum):
    IDLE = "idle"  #: nobody has started it
    GATHERING = "gathering"  #: waiting for enough learners
    INITIALISING = "initialising"  #: waiting for the first weights
    TRAINING = "training"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    FINISHED = "finished"


class Federation(ABC):
    """Decides for one federation, from its start to its end."""

    def __init__(self, config: ControllerConfig, strategies: Strategies, clock: Callable[[], float]) -> None:
        self.config = config
        self.phase = Phase.IDLE
        self.model_version: int | None = None
        self.records: list[RoundRecord] = []
        self._clock, self._strategies = clock, strategies
        self._ledger = Ledger(clock)
        self._present: set[LearnerId] = set()  # have joined, and are not given up
        self._connected: set[LearnerId] = set()  # those of them that are connected now
        self._reported: set[LearnerId] = set()  # those present that have reported at least once
        self._weights: dict[str, float] = {}  # last known scaling factors
        self._timings: dict[LearnerId, Timing] = {}  # of the latest training tasks
        self._round = Round(0, 0, clock, started_at=clock())
        self._signals = TerminationSignals(execution_cutoff_time_mins=1)
        self._needed = config.min_learners
        self._is_aggregating = False
        self._num_published = 0
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
        signals.check(in_rounds=self._strategies.in_rounds)
        self._signals = signals
        self._strategies.seed(seed)
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
        task = self._ledger.awaited.get(learner)
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
        task = self._ledger.awaited.get(learner)
        if task is not None and task.state is not TaskState.STORED:
            self._give_up(task, TaskState.LOST, reason)
        self._forget(learner)
        self._progress()
        return self._take()

    # --- tasks and their outcomes ----------------------------------------------------------------------------------

    def accepted(self, learner: LearnerId, task_id: TaskId) -> list[Command]:
        """Note an acknowledgement."""
        if (task := self._ledger.find(learner, task_id)) is not None:
            self._ledger.accept(task)
        return self._take()

    def failed(self, learner: LearnerId, task_id: TaskId, error_type: str, message: str) -> list[Command]:
        """Note that a learner could not do a task."""
        task = self._ledger.find(learner, task_id)
        if task is not None and not task.state.is_final and task.state is not TaskState.STORED:
            self._give_up(task, TaskState.FAILED, message, error_type)
            self._progress()
        return self._take()

    def served(self, learner: LearnerId, version: int) -> None:
        """Note which global model a learner fetched: without rounds, it may be newer than the one in its task."""
        if (task := self._ledger.awaited.get(learner)) is not None:
            task.newest_version = version

    def admit(self, learner: LearnerId, task_id: TaskId, trained_from: int = 0) -> Task | UpdateReply:
        """Decide on the header of an update: the task to receive it for, or the answer if it is not wanted.

        `trained_from` is the global model that it says it started from. It is believed as far as it can be: not older
        than the one in the task, and not newer than the learner has fetched.
        Unless the task is STORED already, `interrupted`, `arrived` or `rejected` must follow.
        """
        task = self._ledger.find(learner, task_id)
        if task is None or task.kind is TaskKind.EVALUATE:
            return UpdateReply(False, "no such task; its round is over")
        if task.state.is_final:
            return UpdateReply(task.state is TaskState.COUNTED, _why(task))
        if task.state is not TaskState.STORED:  # a second stream of the same update: the first one is given up
            task.model_version = min(max(trained_from, task.model_version), task.newest_version)
            self._ledger.begin_upload(task)
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
        self._ledger.store(task)
        return None

    def counted(
        self, task: Task, weight: float, metrics: Metrics, metadata: dict[str, Json], *, held_bytes: int = 0
    ) -> list[Command]:
        """Note that an update was folded; for first weights: that they are the global model.

        `held_bytes` are those of all updates that were in memory then.
        """
        if task.state is TaskState.STORED:
            self._ledger.count(task, weight, metrics, metadata)
            if task.kind is TaskKind.GET_WEIGHTS:
                self.model_version = self._failed_rounds = 0
            else:
                self._weights[task.learner] = weight
                self._reported.add(task.learner)
                if (timing := timing_of({**metrics, **metadata})) is not None:
                    self._timings[task.learner] = timing
                task.part.staleness = (self.model_version or 0) - task.model_version
                self._announce(UpdateCounted(self._round.number, task.learner, weight, metrics))
                self._on_counted(task, held_bytes)
                if task.learner not in self._present:  # it left while its update was being folded
                    self._forget(task.learner)
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
        task = self._ledger.find(learner, task_id)
        if task is not None and task.kind is TaskKind.EVALUATE and not task.state.is_final:
            self._ledger.evaluated(task, metrics)
            self._announce(LearnerEvaluated(task.round_number, learner, metrics))
            self._on_evaluated(task)
            self._progress()
        return self._take()

    def moved(self, learner: LearnerId, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes that went to or came from a learner."""
        self._ledger.moved(learner, sent, received)

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

    @abstractmethod
    def phase_timed_out(self) -> list[Command]:
        """Give up what took longer than `round_timeout_secs`; updates that are whole already still count."""

    def cutoff_passed(self) -> list[Command]:
        """End it by the time limit."""
        self._finish(f"execution_cutoff_time_mins={self._signals.execution_cutoff_time_mins:g} reached")
        return self._take()

    def published(self, version: int, selection_ms: float = 0.0) -> list[Command]:
        """Go on with a new global model; fetching stored updates for it took so long."""
        if self._is_aggregating and not self.is_finished:
            self._is_aggregating = False
            self._failed_rounds = 0
            self._num_published += 1
            self.model_version = version
            self._round.publish(selection_ms)
            self._announce(ModelPublished(self._round.number, version))
            self._on_published(version)
            self._progress()
        return self._take()

    # --- what happens next, with rounds and without ----------------------------------------------------------------

    @abstractmethod
    def _train(self) -> None:
        """Begin to train, or go on: there is a model, and enough learners are connected."""

    @abstractmethod
    def _on_counted(self, task: Task, held_bytes: int) -> None:
        """Take note of an update that was folded."""

    @abstractmethod
    def _on_evaluated(self, task: Task) -> None:
        """Take note of an evaluation."""

    @abstractmethod
    def _on_failed(self, task: Task) -> None:
        """Take note of a task that did not count."""

    @abstractmethod
    def _on_published(self, version: int) -> None:
        """Go on with a new global model."""

    @abstractmethod
    def _on_finish(self) -> None:
        """Close what is open; no task is awaited any more."""

    @abstractmethod
    def _advance(self) -> None:
        """Leave the phase, one of those of training, if nothing more is awaited in it."""

    def _progress(self) -> None:
        """Leave the phase if nothing more is awaited in it."""
        match self.phase:
            case Phase.IDLE | Phase.FINISHED:
                pass
            case Phase.GATHERING:
                if self.num_connected >= self._needed:
                    self._do(StopTimer("gather"))
                    self._begin()
                    if self.model_version is None:
                        self._initialise()
                    else:
                        self._train()
            case Phase.INITIALISING:
                if self._ledger.awaited:
                    return
                if self.model_version is None:
                    self._try_again("no learner gave the first weights")
                else:
                    self._gather(self.config.min_learners, self.config.quorum_timeout_secs)
            case _:
                self._advance()

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
        tried = {task.learner for task in self._round.tasks}
        candidates = [learner for learner in self.connected if learner not in tried] or self.connected
        learner = self._strategies.draw(candidates)
        task = Task(new_task_id(), TaskKind.GET_WEIGHTS, learner, 0, 0, LearnerRecord())
        self._ledger.assign(task)
        self._round.add(task)
        self._offer(task)

    def _new_round(self) -> Round:
        assert self._started_at is not None
        assert self.model_version is not None
        return Round(
            self._num_published + 1,
            self.model_version,
            self._clock,
            started_at=self._started_at,
            in_rounds=self._strategies.in_rounds,
        )

    def _assign(
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
        task = Task(new_task_id(), kind, learner, of.number, version, part, config)
        self._ledger.assign(task)
        if kind is TaskKind.TRAIN:
            part.train_task_id = task.id
        else:
            part.evaluation_task_id = task.id
        return task

    def _aggregate(self, scheduled: Collection[LearnerId]) -> None:
        """Have a global model made."""
        assert self.model_version is not None
        self._is_aggregating = True
        self._do(Aggregate(self.model_version + 1, self._strategies.others(scheduled, self._reported)))

    def _forget(self, learner: LearnerId) -> None:
        """Take out the share of a learner that left, and what is known of it."""
        self._timings.pop(learner, None)
        self._weights.pop(learner, None)
        if learner in self._reported and not self.is_finished:
            self._reported.remove(learner)
            self._do(Forget(learner))

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
        self.phase = Phase.FINISHED
        self._give_up_all(TaskState.CANCELLED, "the federation ended")
        self._on_finish()
        self._do(StopTimer("gather"), StopTimer("phase"), StopTimer("cutoff"), Discard())
        self._announce(FederationFinished(reason, is_failure))
        self._do(Finish(reason, is_failure))

    # --- pieces ----------------------------------------------------------------------------------------------------

    def _offer(self, task: Task) -> None:
        self._ledger.offer(task)
        self._do(Offer(task))

    def _judge(self, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        """Say what a learner should do with a task that it holds; it holds only what it was offered."""
        task = self._ledger.find(learner, held.task_id)
        if task is None:
            return Verdict.DISCARD, "no such task; its round is over"
        if task.state.is_final:
            return Verdict.DISCARD, _why(task)
        self._ledger.accept(task)
        return (Verdict.UPLOAD, "its outcome is awaited") if held.is_done else (Verdict.CONTINUE, "it is awaited")

    def _give_up_all(self, state: TaskState, reason: str) -> None:
        for task in tuple(self._ledger.awaited.values()):
            self._give_up(task, state, reason)

    def _give_up(self, task: Task, state: TaskState, reason: str, error_type: str = "") -> None:
        """End a task that does not count, and say so; its learner is told unless it told us."""
        error_type = error_type or state.value
        self._ledger.fail(task, state, reason, error_type)
        self._announce(TaskFailed(task.round_number, task.learner, task.kind.value, error_type, reason))
        if state in (TaskState.EXPIRED, TaskState.LATE, TaskState.CANCELLED):
            self._do(Withdraw(task))
        self._on_failed(task)

    def _expire(self, task: Task, reason: str) -> None:
        """Stop waiting for a task, unless its update is whole already."""
        if task.state is not TaskState.STORED:
            self._give_up(task, TaskState.LATE if task.state is TaskState.UPLOADING else TaskState.EXPIRED, reason)

    def _close(self, closing: Round, evaluation: Metrics | None = None) -> RoundRecord:
        record = closing.close(self._weights, stride_length=self._strategies.rule.stride_length, evaluation=evaluation)
        insort(self.records, record, key=lambda other: other.number)
        self._announce(RoundFinished(record))
        return record

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
