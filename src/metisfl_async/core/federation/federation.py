"""A federation's decisions, as far as they are the same with rounds and without: learners, outcomes, time, the end.

`in_rounds` and `continuous` have the rest: who is asked, when a global model is due, what comes next. Nothing here
waits or does anything. `handle` is the only door: it takes in one thing that happened, with the time, and returns the
commands that follow from it; the controller carries them out in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from enum import StrEnum
from functools import partial
from typing import assert_never

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.federation.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Forget,
    Greet,
    Save,
    StartTimer,
    StopTimer,
    TimerName,
)
from metisfl_async.core.federation.desk import Desk
from metisfl_async.core.federation.events import (
    Event,
    FederationFinished,
    FederationResumed,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    UpdateFolded,
)
from metisfl_async.core.federation.inputs import (
    Accepted,
    Admit,
    Arrived,
    Damaged,
    Disconnected,
    Evaluated,
    Failed,
    Folded,
    Input,
    Interrupted,
    Joined,
    Left,
    Moved,
    Published,
    Rejected,
    Resume,
    Saved,
    Served,
    Start,
    Stop,
    TimerFired,
)
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.standing import OpenRound, Standing
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.federation.termination import cutoff_s
from metisfl_async.core.federation.uploads import reply_of
from metisfl_async.core.ids import FederationId, LearnerId, StreamId, TaskId
from metisfl_async.core.messages import TRAINED_BEFORE, Outcome, UpdateReply
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.strategies.scheduling import timing_of
from metisfl_async.core.strategies.strategies import Strategies

__all__ = ["Federation", "Phase"]

ENDING_S = 10.0  #: how long the end waits for a model that is being made


class Phase(StrEnum):
    IDLE = "idle"  #: nobody has started it
    GATHERING = "gathering"  #: waiting for enough learners
    INITIALISING = "initialising"  #: waiting for the first weights
    TRAINING = "training"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    FINISHED = "finished"


class Federation(ABC):
    """Decides for one federation, from its start to its end.

    `standing` is what must survive of it. `is_durable` says whether it does: then nothing that a crash must not undo is
    said to learners before it is saved.
    """

    def __init__(
        self,
        federation_id: FederationId,
        config: ControllerConfig,
        strategies: Strategies,
        *,
        is_durable: bool = False,
    ) -> None:
        self.config = config
        self.phase = Phase.IDLE
        self.model_version: int | None = None
        self.standing = Standing(federation_id)
        self._strategies, self._is_durable = strategies, is_durable
        self._now = 0.0
        self._happened: Input | None = None  # what is decided about now
        self._commands: list[Command] = []
        self._desk = Desk(federation_id, strategies, self._clock, self._do, self._on_failed)
        self.ledger, self._uploads = self._desk.ledger, self._desk.uploads
        self._present: set[LearnerId] = set()  # have joined, and are not given up
        self._connected: set[LearnerId] = set()  # those of them that are connected now
        self._returning: set[LearnerId] = set()  # those who were there when the controller died, and are not back yet
        self._round = Round(0, 0, self._clock, started_at=0.0)
        self._needed = config.min_learners
        self._is_aggregating = False
        self._ending: Callable[[], None] | None = None  # what to do once the model that is being made is there
        self._started_at: float | None = None
        self._gather_at = 0.0
        self._saves = 0
        self._when_saved: dict[int, Callable[[], None]] = {}

    def handle(self, happened: Input, now: float) -> list[Command]:
        """Take in one thing that happened, and decide what follows from it.

        Parameters
        ----------
        happened : Input
        now : float
            Seconds on the controller's clock; it stands still while this is decided.

        Raises
        ------
        MetisError
            If the driver asked for something that is not possible now; then nothing has changed.
        """
        self._now, self._happened = now, happened
        try:
            self._on(happened)
            return self._commands
        finally:
            self._commands = []

    def _on(self, happened: Input) -> None:
        uploads = self._uploads
        match happened:
            case Start():
                self._start(happened)
            case Resume(standing, version):
                self._resume(standing, version)
            case Stop(reason, is_failure, error_type):
                self._finish(reason, is_failure=is_failure, error_type=error_type)
            case Joined(learner, held):
                self._joined(learner, held)
            case Disconnected(learner, reason):
                self._disconnected(learner, reason)
            case Left(learner, reason):
                self._left(learner, reason)
                self._progress()
            case Accepted(learner, task_id):
                if (task := self.ledger.find(learner, task_id)) is not None:
                    self.ledger.accept(task)
                    self.ledger.heard(task)
            case Failed():
                self._failed(happened)
            case Evaluated(learner, task_id, metrics):
                self._evaluated(learner, task_id, metrics)
            case Served(learner, version):
                if (task := self.ledger.awaited.get(learner)) is not None:
                    task.newest_version = version
            case Moved(learner, sent, received):
                self.ledger.moved(learner, sent, received)
            case Admit():
                uploads.admit(happened)
            case Interrupted(stream):
                uploads.interrupted(stream)
            case Arrived(stream):
                uploads.arrived(stream, self._written)
            case Damaged(stream, error_type, reason):
                if uploads.damaged(stream, reason):
                    self._rejected(stream, error_type, reason)
            case Rejected(stream, error_type, reason):
                self._rejected(stream, error_type, reason)
            case Folded():
                self._folded(happened)
            case TimerFired(name):
                self._timer_fired(name)
            case Published(version, selection_ms):
                self._published(version, selection_ms)
            case Saved(number):
                if (then := self._when_saved.pop(number, None)) is not None:
                    then()
            case _:
                assert_never(happened)

    @property
    def is_finished(self) -> bool:
        return self.phase is Phase.FINISHED

    @property
    def connected(self) -> list[LearnerId]:
        """Learners that are connected now, sorted."""
        return sorted(self._connected)

    @property
    def returning(self) -> Collection[LearnerId]:
        """Learners that were there when the controller died, and are not back yet."""
        return self._returning

    @property
    def num_connected(self) -> int:
        return len(self._connected)

    # --- beginning -------------------------------------------------------------------------------------------------

    def _start(self, start: Start) -> None:
        if self.phase is not Phase.IDLE:
            raise UnexpectedMessage(f"training was started before; the federation is {self.phase}")
        self._take_note_of(start)
        if start.is_model_given:
            self._begin_from("given")
        self._gather(self.standing.num_learners, start.join_timeout_s)

    def as_started(self, start: Start) -> str:
        """Write down how it stands once it is started: that is saved before the driver is told that it is."""
        self._take_note_of(start)
        self.standing.first_weights = "given" if start.is_model_given else ""
        return self._written()

    def _take_note_of(self, start: Start) -> None:
        start.signals.check(in_rounds=self._strategies.in_rounds)
        self.standing.signals = start.signals
        self.standing.num_learners = max(start.num_learners, self.config.min_learners)
        self._strategies.seed(start.seed)

    def _begin_from(self, source: str) -> None:
        """Take note of the first weights."""
        self.model_version, self.standing.first_weights = 0, source
        self._announce(FirstWeights(source))

    def _resume(self, standing: Standing, version: int | None) -> None:
        """Go on where the controller died: with learners that come back, and what they hold."""
        self.standing, self.model_version = standing, version
        self._strategies.restore(standing.strategies)
        self._present, self._returning = set(standing.present), set(standing.present)
        self.ledger.restore(standing.counted)
        self._announce(FederationResumed(version, standing.num_published))
        if version is not None:
            self._announce(FirstWeights(standing.first_weights))
        if standing.is_finished:  # and its driver has not got the result yet
            self.phase = Phase.FINISHED
            self._say_finished()
            return
        self._do(StartTimer("return", self.config.lease_secs))
        if standing.elapsed_s is None:
            self._gather(standing.num_learners, None)
            return
        self._started_at = self._now - standing.elapsed_s
        if (seconds := cutoff_s(self._signals)) is not None:
            self._do(StartTimer("cutoff", max(seconds - standing.elapsed_s, 0.0)))
        rounds, standing.rounds = standing.rounds, []
        self._resume_rounds([self._restored(of) for of in rounds])
        self._progress()

    def _restored(self, of: OpenRound) -> Round:
        """Take up a round: its tasks are awaited again; learners still hold them, or what came of them."""
        assert self._started_at is not None
        restored = Round.restored(of.record, self._clock, started_at=self._started_at)
        for task in of.tasks:
            part = restored.part(task.learner)
            number, version = of.record.number, task.model_version
            of_before = Task(task.id, task.kind, task.learner, number, version, part, task.config)
            restored.add(self._desk.await_(of_before))
        return restored

    # --- learners come and go --------------------------------------------------------------------------------------

    def _joined(self, learner: LearnerId, held: Collection[HeldTask] | None) -> None:
        self._present.add(learner)
        self._connected.add(learner)
        self._returning.discard(learner)
        self._announce(LearnerJoined(learner, self.num_connected))
        if held is not None:
            verdicts = {held_task.task_id: self._judge(learner, held_task) for held_task in held}
            self._do(Greet(learner, verdicts))
            for task in self.ledger.open_of(learner):
                if task.id in verdicts:
                    continue
                if task.state is TaskState.OFFERED or (task.state is TaskState.PENDING and not self._is_opening):
                    self._desk.offer(task)
                elif task.state not in (TaskState.PENDING, TaskState.RECEIVED):
                    self._desk.give_up(task, TaskState.LOST, "the learner came back without it")
        self._progress()

    def _judge(self, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        return self._desk.judge(learner, held)

    def _disconnected(self, learner: LearnerId, reason: str) -> None:
        if learner in self._connected:
            self._connected.remove(learner)
            self._announce(LearnerLeft(learner, self.num_connected, reason))

    def _left(self, learner: LearnerId, reason: str) -> None:
        self._present.discard(learner)
        self._returning.discard(learner)
        self._disconnected(learner, reason)
        for task in self.ledger.open_of(learner):
            if task.state is not TaskState.RECEIVED:
                self._desk.give_up(task, TaskState.LOST, reason)
        self._forget(learner)

    # --- outcomes --------------------------------------------------------------------------------------------------

    def _failed(self, failed: Failed) -> None:
        task = self.ledger.find(failed.learner, failed.task_id)
        if task is not None and self.ledger.awaits(task) and task.state is not TaskState.RECEIVED:
            self._desk.give_up(task, TaskState.FAILED, failed.message, failed.error_type)
            self._progress()

    def _folded(self, folded: Folded) -> None:
        if (task := self._uploads.task_of(folded.stream)) is None:
            return
        if task.kind is TaskKind.GET_WEIGHTS:
            self.ledger.count(task)
            self.standing.failed_rounds = 0
            how = "trained before" if folded.metadata.get(TRAINED_BEFORE) else "as made"
            self._begin_from(f"of {task.learner}, {how}")
            self._uploads.settle(task, UpdateReply(Outcome.COUNTED))
            self._progress()
            return
        weight, metrics, metadata = folded.weight, folded.metrics, folded.metadata
        self.ledger.fold(task, weight, metrics, metadata)
        self.standing.weights[task.learner] = weight
        self.standing.reported.add(task.learner)
        if (timing := timing_of({**metrics, **metadata})) is not None:
            self.standing.timings[task.learner] = timing
        task.part.staleness = (self.model_version or 0) - task.model_version
        self._announce(UpdateFolded(self._round.number, task.learner, weight, metrics))
        self._on_folded(task, folded.held_bytes)
        if task.learner not in self._present:  # it left while its update was being folded
            self._forget(task.learner)
        self._uploads.settle(task, reply_of(task))
        self._progress()

    def _rejected(self, stream: StreamId, error_type: str, reason: str) -> None:
        if (task := self._uploads.task_of(stream)) is not None:
            self._desk.give_up(task, TaskState.REJECTED, reason, error_type)
            self._progress()

    def _evaluated(self, learner: LearnerId, task_id: TaskId, metrics: Metrics) -> None:
        task = self.ledger.find(learner, task_id)
        if task is not None and task.kind is TaskKind.EVALUATE and not task.state.is_final:
            self.ledger.evaluated(task, metrics)
            self._announce(LearnerEvaluated(task.round_number, learner, metrics))
            self._on_evaluated(task)
            self._progress()

    # --- time, and the aggregator ----------------------------------------------------------------------------------

    def _timer_fired(self, name: TimerName) -> None:
        match name:
            case _ if self.is_finished:
                pass
            case "gather":
                self._gather_timed_out()
            case "phase":
                self._phase_timed_out()
            case "cutoff":
                minutes = self._signals.execution_cutoff_time_mins
                self._finish(f"execution_cutoff_time_mins={minutes:g} reached")
            case "ending":
                self._end_without_model()
            case "return":
                reason = f"it did not come back to the resumed controller within lease_secs={self.config.lease_secs:g}"
                for learner in sorted(self._returning):
                    self._left(learner, reason)
                self._progress()
            case _:
                assert_never(name)

    def _end_without_model(self) -> None:
        """End it now: the model that is being made takes too long."""
        self._is_aggregating = False
        if (ending := self._ending) is not None:
            ending()

    def _gather_timed_out(self) -> None:
        """End it for lack of learners."""
        if self.phase is Phase.GATHERING:
            waited = self._now - self._gather_at
            who = ", ".join(self.connected) or "nobody"
            self._finish(
                f"{self.num_connected} of {self._needed} learners are connected after {waited:.0f} s ({who})",
                is_failure=True,
            )

    def _published(self, version: int, selection_ms: float) -> None:
        """Go on with a new global model: what was folded counts."""
        if not self._is_aggregating or self.is_finished:
            return
        self._is_aggregating = False
        self.standing.failed_rounds = 0
        self.standing.num_published += 1
        self.model_version = version
        self._round.publish(selection_ms)
        self._desk.count([task for task in self._round.tasks if task.state is TaskState.FOLDED], version)
        self._announce(ModelPublished(self._round.number, version))
        if self._ending is not None:
            self._ending()
        else:
            self._on_published(version)
            self._progress()

    # --- what happens next, with rounds and without ----------------------------------------------------------------

    @abstractmethod
    def _phase_timed_out(self) -> None:
        """Give up what took longer than `round_timeout_secs`; updates that are whole already still count."""

    @abstractmethod
    def _train(self) -> None:
        """Begin to train, or go on: there is a model, and enough learners are connected."""

    @abstractmethod
    def _resume_rounds(self, rounds: list[Round]) -> None:
        """Go on with the rounds that were not complete when the controller died, oldest first."""

    @abstractmethod
    def _open_rounds(self) -> list[OpenRound]:
        """List the rounds whose records are not complete, oldest first, but for the one that is being published."""

    @abstractmethod
    def _on_folded(self, task: Task, held_bytes: int) -> None:
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
                if self.num_connected >= self._needed and not self._returning:
                    self._do(StopTimer("gather"))
                    self._begin()
                    if self.model_version is None:
                        self._initialise()
                    else:
                        self._train()
            case Phase.INITIALISING:
                if self.ledger.awaited:
                    return
                if self.model_version is None:
                    self._try_again("no learner gave the first weights")
                else:
                    self._gather(self.config.min_learners, self.config.quorum_timeout_secs)
            case _:
                self._advance()

    def _gather(self, needed: int, timeout_s: float | None) -> None:
        self._needed, self._gather_at = needed, self._now
        self._enter(Phase.GATHERING)
        if timeout_s is not None:
            self._do(StartTimer("gather", timeout_s))
        self._progress()

    def _begin(self) -> None:
        """Start the federation's clock, the first time that enough learners are there."""
        if self._started_at is None:
            self._started_at = self._now
            if (seconds := cutoff_s(self._signals)) is not None:
                self._do(StartTimer("cutoff", seconds))

    def _initialise(self) -> None:
        """Ask one learner for first weights; those that did not give them come last."""
        self._enter(Phase.INITIALISING)
        tried = {task.learner for task in self._round.tasks}
        candidates = [learner for learner in self.connected if learner not in tried] or self.connected
        learner = self._strategies.draw(candidates)
        part = LearnerRecord()
        task = self._desk.assign(TaskKind.GET_WEIGHTS, learner, self._round, version=0, params={}, part=part)
        self._round.add(task)
        self._desk.offer(task)

    def _new_round(self) -> Round:
        assert self._started_at is not None
        assert self.model_version is not None
        return Round(
            self.standing.num_published + 1,
            self.model_version,
            self._clock,
            started_at=self._started_at,
            in_rounds=self._strategies.in_rounds,
        )

    def _aggregate(self, scheduled: Collection[LearnerId]) -> None:
        """Have a global model made of what is folded."""
        assert self.model_version is not None
        self._is_aggregating = True
        others = self._strategies.others(scheduled, self.standing.reported)
        standing = self._written(publishing=self._round) if self._is_durable else ""
        self._do(Aggregate(self.model_version + 1, others, standing))

    def _forget(self, learner: LearnerId) -> None:
        """Take out the share of a learner that left, and what is known of it."""
        self.standing.timings.pop(learner, None)
        self.standing.weights.pop(learner, None)
        if learner in self.standing.reported and not self.is_finished:
            self.standing.reported.remove(learner)
            self._do(Forget(learner))

    def _try_again(self, what: str) -> None:
        """Go back to gathering after a round, or a request for first weights, that came to nothing."""
        self.standing.failed_rounds += 1
        if self.standing.failed_rounds >= self.config.max_failed_rounds:
            last = self._round.failures()
            self._finish(f"{what}, {self.standing.failed_rounds} times in a row; last: {last}", is_failure=True)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _finish(self, reason: str, *, is_failure: bool = False, error_type: str = "") -> None:
        """End it: what is in no model does not count, and its learners are told."""
        if self.is_finished:
            return
        if self._is_aggregating and not error_type:  # a model is being made, and its updates are to count
            self._ending = self._ending or partial(self._finish, reason, is_failure=is_failure)
            self._do(StartTimer("ending", ENDING_S))
            return
        self.phase = Phase.FINISHED
        self._desk.give_up_all(TaskState.CANCELLED, "the federation ended")
        self._on_finish()
        timers: tuple[TimerName, ...] = ("gather", "phase", "cutoff", "return", "ending")
        self._do(*(StopTimer(name) for name in timers), Discard())
        standing = self.standing
        standing.is_finished, standing.reason = True, reason
        standing.is_failure, standing.error_type = is_failure, error_type
        self._save(self._say_finished)

    def _say_finished(self) -> None:
        how = self.standing.reason, self.standing.is_failure, self.standing.error_type
        self._announce(FederationFinished(*how))
        self._do(Finish(*how))

    # --- what must survive -----------------------------------------------------------------------------------------

    def _save(self, then: Callable[[], None]) -> None:
        """Do something once the federation's standing is saved; at once where nothing is kept."""
        if not self._is_durable:
            then()
            return
        self._saves += 1
        self._when_saved[self._saves] = then
        self._do(Save(self._saves, self._written(), self.standing.is_finished))

    def _written(self, publishing: Round | None = None) -> str:
        """Write the standing down, as it is, or as it will be once a round is published."""
        standing = self.standing
        before = standing.num_published, standing.failed_rounds
        counted = self.ledger.counted_ids()
        rounds = self._open_rounds()
        if publishing is not None:
            standing.num_published, standing.failed_rounds = standing.num_published + 1, 0
            for task in publishing.tasks:
                if task.state is TaskState.FOLDED:
                    counted[task.learner] = [*counted.get(task.learner, ()), task.id]
            rounds = [*rounds, OpenRound(publishing.as_published())]
        try:
            standing.elapsed_s = None if self._started_at is None else self._now - self._started_at
            standing.present, standing.counted = sorted(self._present), counted
            standing.rounds, standing.strategies = rounds, self._strategies.state()
            return standing.to_json()
        finally:
            standing.num_published, standing.failed_rounds = before
            standing.rounds = []

    # --- pieces ----------------------------------------------------------------------------------------------------

    @property
    def _signals(self) -> TerminationSignals:
        assert self.standing.signals is not None
        return self.standing.signals

    @property
    def _is_opening(self) -> bool:
        """Whether a round waits to be saved before its tasks go out."""
        return bool(self._when_saved) and not self.is_finished

    def _close(self, closing: Round, evaluation: Metrics | None = None) -> RoundRecord:
        stride_length = self._strategies.rule.stride_length
        record = closing.close(self.standing.weights, stride_length=stride_length, evaluation=evaluation)
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

    def _clock(self) -> float:
        """Tell the time to those who keep the books."""
        return self._now
