"""The course of a federation: its phases from gathering to the end, and what must survive of it.

`federation` has what happens in them; `in_rounds` and `continuous` have who is asked, when a global model is due, and
what comes next. Nothing here waits or does anything: it decides, and collects commands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import replace
from enum import StrEnum
from functools import partial

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Forget,
    Save,
    StartTimer,
    StopTimer,
    TimerName,
)
from metisfl_async.core.federation.desk import Desk
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.evaluation import Evaluation
from metisfl_async.core.federation.events import Event, FederationFinished, FirstWeights, RoundFinished
from metisfl_async.core.federation.inputs import CentralEvaluation, Input, Unpublished
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.standing import OpenRound, Standing
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.federation.termination import cutoff_s
from metisfl_async.core.federation.uploads import ENDED
from metisfl_async.core.ids import FederationId, LearnerId
from metisfl_async.core.strategies.strategies import Strategies

__all__ = ["Course", "Phase"]

LEFT_BEFORE = "its learner left before a model was made of it"
ENDING_S = 10.0  #: how long the end waits for a model that is being made


class Phase(StrEnum):
    IDLE = "idle"  #: nobody has started it
    GATHERING = "gathering"  #: waiting for enough learners
    INITIALISING = "initialising"  #: waiting for the first weights
    TRAINING = "training"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    FINISHED = "finished"


class Course(ABC):
    """Leads one federation from its start to its end.

    `standing` is what must survive of it. Every `durable_every`-th global model is saved with it, none with 0. What a
    crash must not undo is said to learners after that.
    """

    def __init__(
        self,
        federation_id: FederationId,
        config: ControllerConfig,
        strategies: Strategies,
        *,
        durable_every: int = 0,
        epoch: float = 0.0,
    ) -> None:
        self.config = config
        self.phase = Phase.IDLE
        self.model_version: int | None = None
        self.standing = Standing(federation_id)
        self._strategies, self._durable_every, self._epoch = strategies, durable_every, epoch
        self._lost = 0  # so many versions may have been published after the last that was saved, and died with it
        self._now = 0.0
        self._happened: Input | None = None  # what is decided about now
        self._commands: list[Command] = []
        self._desk = Desk(federation_id, strategies, self._clock, self._do, self._on_failed)
        self.ledger, self._uploads = self._desk.ledger, self._desk.uploads
        self._present: set[LearnerId] = set()  # have joined, and are not given up
        self._connected: set[LearnerId] = set()  # those of them that are connected now
        self._returning: set[LearnerId] = set()  # those who were there when the controller died, and are not back yet
        self._models: dict[LearnerId, int] = {}  # the version that each learner has fetched since it connected
        self._round = Round(0, 0, self._clock, started_at=0.0)
        self._needed = config.min_learners
        self._is_aggregating = False
        self._ending: Callable[[], None] | None = None  # what to do once the model that is being made is there
        self._started_at: float | None = None
        self._gather_at = 0.0
        self._saves = 0
        self._when_saved: dict[int, Callable[[], None]] = {}

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

    # --- what happens next, with rounds and without ----------------------------------------------------------------

    @abstractmethod
    def _phase_timed_out(self) -> None:
        """Give up what took longer than `round_timeout_secs`; updates that are whole already still count."""

    @abstractmethod
    def _train(self) -> None:
        """Begin to train, or go on: there is a model, and enough learners are connected."""

    def _proceed(self, kind: TaskKind, note: str) -> None:  # noqa: B027 - most are not led
        """Go on with what a federation that is led waits for; others go on by themselves."""

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
    def _on_central(self, report: CentralEvaluation) -> None:
        """Take note of what the driver says of a global model."""

    @abstractmethod
    def _on_failed(self, task: Task) -> None:
        """Take note of a task that did not count."""

    @abstractmethod
    def _on_published(self, version: int) -> None:
        """Go on with a new global model."""

    @abstractmethod
    def _on_unpublished(self, unpublished: Unpublished) -> None:
        """Go on after a model that could not be published."""

    @abstractmethod
    def _on_finish(self) -> None:
        """Close what is open; no task is awaited any more."""

    @abstractmethod
    def _advance(self) -> None:
        """Leave the phase, one of those of training, if nothing more is awaited in it."""

    # --- from phase to phase ---------------------------------------------------------------------------------------

    def _begin_from(self, source: str) -> None:
        """Take note of the first weights."""
        self.model_version, self.standing.first_weights = 0, source
        self._announce(FirstWeights(source))

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
        opened = Round(
            self.standing.num_published + 1,
            self.model_version,
            self._clock,
            started_at=self._started_at,
            in_rounds=self._strategies.in_rounds,
        )
        opened.record.started_at = self._epoch + self._now
        return opened

    def _aggregate(self, scheduled: Collection[LearnerId]) -> None:
        """Have a global model made of what is folded."""
        assert self.model_version is not None
        self._is_aggregating = True
        others = self._strategies.others(scheduled, self.standing.reported)
        version = self.model_version + 1 + self._lost  # a version is never used for two models
        is_saved = self._durable_every and (version % self._durable_every == 0 or self._lost)
        standing = self._written(publishing=self._round) if is_saved else ""
        self._do(Aggregate(version, others, standing))

    def _forget(self, learner: LearnerId) -> None:
        """Take out the share of a learner that left, and what is known of it.

        A rule that remembers each learner's latest update takes out what is in no model yet, too.
        """
        if self._strategies.rule.needs_previous and not self._is_aggregating:
            for task in list(self.ledger.folded.get(learner, ())):
                self._round.take_out(task)
                self._desk.give_up(task, TaskState.LOST, LEFT_BEFORE)
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
            self._finish(f"{what}, {_in_a_row(self.standing.failed_rounds)}; last: {last}", Ending.QUORUM_LOST)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _try_another_model(self) -> None:
        """Go back to gathering after a model that could not be published."""
        standing, last = self.standing, self._round.record.failure
        standing.failed_models += 1
        if standing.failed_models >= self.config.max_failed_rounds:
            reason = f"no model could be published, {_in_a_row(standing.failed_models)}; last: {last}"
            self._finish(reason, Ending.NO_MODEL)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _finish(self, reason: str, ending: Ending) -> None:
        """End it: what is in no model does not count, and its learners are told."""
        if self.is_finished:
            return
        if self._is_aggregating and not ending.is_sudden:  # a model is being made, and its updates are to count
            self._ending = self._ending or partial(self._finish, reason, ending)
            self._do(StartTimer("ending", ENDING_S))
            return
        self.phase = Phase.FINISHED
        self._desk.give_up_all(TaskState.CANCELLED, ENDED)
        self._on_finish()
        timers: tuple[TimerName, ...] = ("gather", "phase", "cutoff", "return", "ending", "central")
        self._do(*(StopTimer(name) for name in timers), Discard())
        self.standing.is_finished, self.standing.reason, self.standing.ending = True, reason, ending
        self._save(self._say_finished)

    def _say_finished(self) -> None:
        reason, ending = self.standing.reason, self.standing.ending
        assert ending is not None
        self._announce(FederationFinished(reason, ending.is_failure, ending))
        self._do(Finish(reason, ending))

    # --- what must survive -----------------------------------------------------------------------------------------

    def _save(self, then: Callable[[], None]) -> None:
        """Do something once the federation's standing is saved; at once where nothing is kept."""
        if not self._durable_every:
            then()
            return
        self._saves += 1
        self._when_saved[self._saves] = then
        self._do(Save(self._saves, self._written(), self.standing.is_finished))

    def _written(self, publishing: Round | None = None) -> str:
        """Write the standing down, as it is, or as it will be once a round is published."""
        counted, rounds = self.ledger.counted_ids(), self._open_rounds()
        standing = replace(
            self.standing,
            elapsed_s=None if self._started_at is None else self._now - self._started_at,
            present=sorted(self._present),
            strategies=self._strategies.state(),
            durable_every=self._durable_every,
        )
        if publishing is not None:
            standing.num_published += 1
            standing.failed_rounds = standing.failed_models = 0
            rounds = [*rounds, OpenRound(publishing.as_published())]
            for task in publishing.tasks:
                if task.state is TaskState.FOLDED:
                    counted[task.learner] = [*counted.get(task.learner, ()), task.id]
        standing.counted, standing.rounds = counted, rounds
        return standing.to_json()

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

    # --- pieces ----------------------------------------------------------------------------------------------------

    @property
    def _signals(self) -> TerminationSignals:
        assert self.standing.signals is not None
        return self.standing.signals

    @property
    def _is_opening(self) -> bool:
        """Whether a round waits to be saved before its tasks go out."""
        return bool(self._when_saved) and not self.is_finished

    def _close(self, closing: Round, evaluation: Evaluation | None = None) -> RoundRecord:
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


def _in_a_row(times: int) -> str:
    return f"{times} time{'s' if times > 1 else ''} in a row"
