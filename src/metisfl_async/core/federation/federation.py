"""What happens to a federation, and what follows from it: learners come and go, report, fail; timers fire; it ends.

`handle` is the only door: it takes in one thing that happened, with the time, and returns the commands that follow from
it; the controller carries them out in order. `course` has the phases; nothing here waits or does anything. Texts of
peers come in here, and are made plain: from here they go into records, logs and terminals.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, assert_never

from metisfl_async.core.errors import MetisError, NoModel, UnexpectedMessage
from metisfl_async.core.federation.commands import Command, Forget, Greet, StartTimer, TimerName
from metisfl_async.core.federation.course import Course, Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.evaluation import measured
from metisfl_async.core.federation.events import (
    FederationResumed,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    TaskMoved,
    UpdateFolded,
    UpdateRepeated,
)
from metisfl_async.core.federation.inputs import (
    CENTRAL_S,
    Accepted,
    Admit,
    Arrived,
    CentralEvaluation,
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
    Proceed,
    Published,
    Rejected,
    Resume,
    Saved,
    Served,
    Start,
    Stop,
    TimerFired,
    Unpublished,
    gave_up,
)
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.federation.termination import cutoff_s
from metisfl_async.core.federation.uploads import ENDED, reply_of
from metisfl_async.core.ids import LearnerId, StreamId
from metisfl_async.core.messages import TRAINED_BEFORE, Outcome, UpdateReply
from metisfl_async.core.strategies.scheduling import timing_of
from metisfl_async.core.texts import MAX_NAME, plain, plain_names

__all__ = ["Federation"]

MOVES = "fetching", "working", "uploading"  #: the steps of a learner at its task, in order


class Federation(Course):
    """Decides for one federation: takes in what happens to it, one thing after another."""

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
            case Stop(reason, ending):
                self._finish(plain(reason), ending)
            case Joined(learner, held):
                self._joined(learner, held)
            case Disconnected(learner, reason):
                self._disconnected(learner, plain(reason))
            case Left(learner, reason):
                self._left(learner, plain(reason))
                self._progress()
            case Accepted(learner, task_id):
                if (task := self.ledger.find(learner, task_id)) is not None:
                    is_new = task.state is TaskState.OFFERED and not task.has_model
                    self.ledger.accept(task)
                    self.ledger.heard(task)
                    if is_new and self._models.get(learner) == task.model_version:
                        self._moved(task, "working")
            case Failed():
                self._failed(happened)
            case Evaluated():
                self._evaluated(happened)
            case Served(learner, version):
                self._models[learner] = version
                for task in self.ledger.open_of(learner):  # whichever it fetches it for
                    task.newest_version = version
                if (task := self.ledger.awaited.get(learner)) is not None:
                    self._moved(task, "fetching")
            case CentralEvaluation():
                self._on_central(happened)
                self._progress()
            case Moved(learner, sent, received, is_all):
                self.ledger.moved(learner, sent, received)
                if is_all and (task := self.ledger.awaited.get(learner)) is not None:
                    self.ledger.fetched(task)
                    self._moved(task, "working")
            case Admit():
                uploads.admit(happened, is_finished=self.is_finished)
                if (task := uploads.task_of(happened.stream)) is not None and task.state is TaskState.UPLOADING:
                    self._moved(task, "uploading")
            case Interrupted(stream):
                uploads.interrupted(stream)
            case Arrived(stream):
                uploads.arrived(stream, self._written)
            case Damaged(stream, error_type, reason):
                if uploads.damaged(stream, plain(reason)):
                    self._rejected(stream, error_type, reason)
            case Rejected(stream, error_type, reason):
                self._rejected(stream, error_type, reason)
            case Folded():
                self._folded(happened)
            case TimerFired(name):
                self._timer_fired(name)
            case Published():
                self._published(happened)
            case Unpublished():
                self._unpublished(happened)
            case Proceed(kind, note):
                self._proceed(kind, note)
            case Saved(number):
                if (then := self._when_saved.pop(number, None)) is not None:
                    then()
            case _:
                assert_never(happened)

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
        self.config.check_signals(start.signals, evaluates=start.evaluates)
        self.standing.signals, self.standing.evaluates = start.signals, start.evaluates
        self.standing.num_learners = max(start.num_learners, self.config.min_learners)
        self.standing.seed = self._desk.seed = start.seed
        self._strategies.seed(start.seed)

    def _resume(self, standing: Standing, version: int | None) -> None:
        """Go on where the controller died: with learners that come back, and what they hold."""
        self.standing, self.model_version = standing, version
        self._lost = standing.durable_every - 1
        self._desk.seed = standing.seed
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
        if self.is_finished and self.ledger.find(learner, held.task_id) is None:
            return Verdict.DISCARD, ENDED
        return self._desk.judge(learner, held)

    def _disconnected(self, learner: LearnerId, reason: str) -> None:
        self._models.pop(learner, None)  # it may be started again, and has none then
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
            self._desk.give_up(task, TaskState.FAILED, plain(failed.message), plain(failed.error_type, MAX_NAME))
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
        weight, metrics, metadata = folded.weight, plain_names(folded.metrics), folded.metadata
        self.ledger.fold(task, weight, metrics, metadata)
        self.standing.weights[task.learner] = weight
        self.standing.reported.add(task.learner)
        if (timing := timing_of({**metrics, **metadata})) is not None:
            self.standing.timings[task.learner] = timing
        task.part.staleness = (self.model_version or 0) - task.model_version
        task.part.update_norm, task.part.is_global, task.part.twin = folded.norm, folded.is_global, folded.twin
        task.part.num_relayed = folded.num_relayed
        self._announce(UpdateFolded(self._round.number, task.learner, weight, metrics))
        if folded.is_global or folded.twin is not None:
            self._announce(UpdateRepeated(self._round.number, task.learner, folded.twin))
        self._on_folded(task, folded.held_bytes)
        if task.learner not in self._present:  # it left while its update was being folded
            self._forget(task.learner)
        self._uploads.settle(task, reply_of(task))
        self._progress()

    def _rejected(self, stream: StreamId, error_type: str, reason: str) -> None:
        if (task := self._uploads.task_of(stream)) is not None:
            self._desk.give_up(task, TaskState.REJECTED, plain(reason), error_type)
            self._progress()

    def _evaluated(self, evaluated: Evaluated) -> None:
        task = self.ledger.find(evaluated.learner, evaluated.task_id)
        if task is None or task.kind is not TaskKind.EVALUATE or task.state.is_final:
            return
        try:
            said = measured(evaluated.metrics, evaluated.contributors, self.config)
        except MetisError as error:
            self._desk.give_up(task, TaskState.FAILED, plain(str(error)), type(error).__name__)
        else:
            self.ledger.evaluated(task, said.metrics, said.metadata)
            self._announce(LearnerEvaluated(task.round_number, task.learner, said.metrics, said.num_learners))
            self._on_evaluated(task)
        self._progress()

    def _moved(self, task: Task, state: Literal["fetching", "working", "uploading"]) -> None:
        """Say how far a learner is, once: who fetches again and again leaves the others room in what watchers hear."""
        if (moved := MOVES.index(state) + 1) <= task.moved:
            return
        task.moved = moved
        assert self._started_at is not None
        at_ms = (self._now - self._started_at) * 1e3
        self._announce(TaskMoved(task.round_number, task.learner, task.kind.value, task.id, state, at_ms))

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
                self._finish(f"execution_cutoff_time_mins={minutes:g} reached", Ending.CUTOFF_TIME)
            case "ending":
                self._end_without_model()
            case "central":
                self._on_central(gave_up(self.model_version, f"the driver was silent for {CENTRAL_S:g} s"))
                self._progress()
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
                Ending.QUORUM_LOST,
            )

    def _published(self, published: Published) -> None:
        """Go on with a new global model: what was folded counts."""
        if not self._is_aggregating or self.is_finished:
            return
        self._is_aggregating = False
        self.standing.failed_rounds = self.standing.failed_models = 0
        self.standing.num_published += 1
        self.model_version = version = published.version
        self._lost = 0
        self._round.publish(published.selection_ms)
        self._round.record.privacy = dict(published.privacy)
        folded = [task for task in self._round.tasks if task.state is TaskState.FOLDED]
        for task in folded:
            task.part.rule_notes = dict(published.notes.get(task.learner, {}))
            task.part.update_cosine = published.cosines.get(task.id)
        self._desk.count(folded, version)
        self._announce(ModelPublished(self._round.number, version))
        if self._ending is not None:
            self._ending()
        else:
            self._on_published(version)
            self._progress()

    def _unpublished(self, unpublished: Unpublished) -> None:
        """Go on without the model that was asked for: what was folded for it does not count, unless it is kept."""
        if not self._is_aggregating or self.is_finished:
            return
        self._is_aggregating = False
        self._round.record.failure = reason = unpublished.reason
        if not unpublished.keeps_updates:
            for task in [task for tasks in self.ledger.folded.values() for task in tasks]:
                self._desk.give_up(task, TaskState.REJECTED, reason, NoModel.__name__)
                if self._strategies.keeps_updates and task.learner in self.standing.reported:
                    self.standing.reported.remove(task.learner)  # nor does its update join a later mean
                    self._do(Forget(task.learner))
        if self._ending is not None:
            self._ending()
        else:
            self._on_unpublished(unpublished)
