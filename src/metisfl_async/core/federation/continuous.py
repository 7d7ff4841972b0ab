"""A federation without rounds: learners train all the time, and their updates become global models as they come."""

from __future__ import annotations

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation.commands import StartTimer
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.evaluation import Evaluation
from metisfl_async.core.federation.events import RoundStarted
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.inputs import CentralEvaluation, Folded, Published, Unpublished
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.running_means import RunningEvaluation
from metisfl_async.core.federation.standing import OpenRound
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.federation.termination import reason_to_stop
from metisfl_async.core.federation.uploads import ENDED
from metisfl_async.core.ids import FederationId, LearnerId
from metisfl_async.core.strategies.strategies import Strategies

__all__ = ["ContinuousFederation"]

NO_EVALUATION = Evaluation({})


class ContinuousFederation(Federation):
    """Decides for schedulers without rounds: Asynchronous, and users' own.

    Each global model has a record, under its version: `_round` is that of the next one, which collects updates;
    `_measured` are those whose evaluations are awaited. A learner that reported evaluates the model that came of it,
    and then trains that one.
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
        super().__init__(federation_id, config, strategies, durable_every=durable_every, epoch=epoch)
        self._benched: set[LearnerId] = set()  # failed, or wait for others; asked again when there is a new model
        self._measured: dict[int, Round] = {}
        self._evaluations = RunningEvaluation()  # of each learner's latest, with its latest scaling factor
        self._fetched: dict[LearnerId, int] = {}  # the model that a learner has just evaluated
        self._latest: RoundRecord | None = None  # the record that was closed last
        self._too_few = 0  # so many updates of this model were not enough for the rule

    def _phase_timed_out(self) -> None:
        timeout_s = self.config.round_timeout_secs
        assert timeout_s is not None
        now = self._now
        for task in self.ledger.open():
            if task.made_at + timeout_s <= now:
                self._desk.expire(task, f"it took longer than round_timeout_secs={timeout_s:g}")
        self._progress()
        if not self.is_finished and self.phase is not Phase.GATHERING:
            oldest = next(iter(self.ledger.awaited.values()), None)
            due_at = now if oldest is None or oldest.made_at + timeout_s <= now else oldest.made_at
            self._do(StartTimer("phase", due_at + timeout_s - now))

    def _train(self) -> None:
        if not self._round.is_open:
            self._round = self._new_round()
        self._benched.clear()
        self._enter(Phase.TRAINING)
        self._advance()

    def _advance(self) -> None:
        if self.phase is Phase.EVALUATING:  # the last model
            if not self.ledger.awaited:
                self._end_if_due()
            return
        if self._is_aggregating:
            return
        reported, strategies = self._round.reported, self._strategies
        is_enough = len(reported) >= max(strategies.rule.updates_per_version, self._too_few + 1)
        if is_enough and strategies.is_due(reported, self.ledger.awaited.keys()) and not self._is_one_being_folded:
            self._aggregate(set(reported))
            return
        self._give_work()
        if not self.ledger.awaited:
            self._pause()

    @property
    def _is_one_being_folded(self) -> bool:
        """Whether an update may be on its way into the sum now: it would be in the model, and not in what is saved."""
        is_between = isinstance(self._happened, Folded | Published)
        return not is_between and any(task.state is TaskState.RECEIVED for task in self.ledger.open())

    def _give_work(self) -> None:
        """Give training tasks to those who have nothing to do."""
        idle = sorted(self._connected - self.ledger.awaited.keys() - self._benched)
        fetched, self._fetched = self._fetched, {}
        if not idle or self.num_connected < self.config.min_learners:
            return
        chosen = self._strategies.select(idle, len(self.ledger.awaited))
        if not chosen:
            return
        assert self.model_version is not None
        plans = self._strategies.plan(chosen, self.standing.timings)
        self._announce(RoundStarted(self._round.number, self.model_version, [*chosen], in_rounds=False))
        for learner in chosen:
            version = fetched.get(learner, self.model_version)
            params, part = plans[learner], LearnerRecord()
            self._desk.offer(
                self._desk.assign(TaskKind.TRAIN, learner, self._round, version=version, params=params, part=part)
            )

    def _pause(self) -> None:
        """Wait for learners, or for better luck: nobody is at work."""
        if self.num_connected < self.config.min_learners:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)
            return
        if not self._round.reported:
            self._close_record(self._round)
        self._try_again(f"nobody could train for model version {self._round.number}")

    def _judge(self, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        """Adopt a task that this controller gave before it died: nobody trains twice.

        Of updates that were folded for a model that was not made, and what their learner was at, none is lost.
        """
        is_ours = held.model.federation_id == self.standing.federation_id and held.kind == TaskKind.TRAIN
        newest = -1 if self.model_version is None else self.model_version
        is_unknown = self.ledger.find(learner, held.task_id) is None
        if is_ours and is_unknown and not self.is_finished and held.model.version <= newest:
            if not self._round.is_open:  # its update may be here before enough learners are back
                self._begin()
                self._round = self._new_round()
            part, number = LearnerRecord(), self._round.number
            of_before = Task(held.task_id, TaskKind.TRAIN, learner, number, held.model.version, part)
            of_before.newest_version = newest  # it may have fetched a newer one than its task says
            self._desk.await_(of_before)
        return super()._judge(learner, held)

    def _resume_rounds(self, rounds: list[Round]) -> None:
        """Close the records that waited for evaluations; who had a task still holds it."""
        for learner, (weight, metrics) in self.standing.evaluations.items():
            self._evaluations.report(learner, weight, metrics)
        for of_before in rounds:
            self._close_record(of_before, self._evaluations.mean())
        if self._is_counted_out:
            self._end_if_due()
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _open_rounds(self) -> list[OpenRound]:
        self.standing.evaluations = self._evaluations.reports()
        return [OpenRound(self._measured[number].as_published()) for number in sorted(self._measured)]

    @property
    def _is_counted_out(self) -> bool:
        """Whether there are as many models as were asked for."""
        return self.standing.num_published == self._signals.global_updates

    def _on_folded(self, task: Task, held_bytes: int) -> None:
        self._round.add(task)
        self._round.fold(task, held_bytes)
        self._evaluations.weigh(task.learner, self.standing.weights[task.learner])
        self.standing.failed_rounds = 0

    def _on_central(self, report: CentralEvaluation) -> None:
        """Do nothing: no record waits for it."""

    def _on_failed(self, task: Task) -> None:
        if task.kind is TaskKind.EVALUATE:
            self._end_evaluation(task)
        elif task.kind is TaskKind.TRAIN and task.state is not TaskState.CANCELLED:
            if task not in self._round.tasks:  # else it was folded
                self._round.add(task)
            if task.learner in self._present:
                self._benched.add(task.learner)

    def _on_evaluated(self, task: Task) -> None:
        assert task.part.weight is not None  # its update is in the model
        self._evaluations.report(task.learner, task.part.weight, task.part.evaluation_metrics)
        self._fetched[task.learner] = task.newest_version
        self._end_evaluation(task)

    def _on_published(self, version: int) -> None:
        """Have the model evaluated by those of its learners that are free, and go on."""
        published, self._round = self._round, self._new_round()
        self._too_few = 0
        self._benched.clear()
        every = self.config.evaluate_every
        if every and published.number % every == 0:
            for learner in dict.fromkeys(published.reported):
                if learner in self._connected and learner not in self.ledger.awaited:
                    task = self._desk.assign(
                        TaskKind.EVALUATE,
                        learner,
                        published,
                        version=version,
                        params=self.config.eval_params,
                        part=published.part(learner),
                    )
                    published.add(task)
                    self._measured[published.number] = published
                    self._desk.offer(task)
        if published.number not in self._measured:
            self._close_measured(published)
        if self.phase is Phase.TRAINING and self._is_counted_out:
            self._enter(Phase.EVALUATING)
            for task in self.ledger.open():
                if task.kind is TaskKind.TRAIN:
                    self._desk.give_up(task, TaskState.CANCELLED, ENDED)

    def _on_unpublished(self, unpublished: Unpublished) -> None:
        if unpublished.may_pass:  # the record stays open, and the same updates are tried again
            self._round.record.failure = ""
            self._try_another_model()
            return
        if unpublished.keeps_updates:
            # Those of others are to come; who has reported need not train the same model again.
            self._round.record.failure, self._too_few = "", len(self._round.reported)
            self._benched |= self._present.intersection(self._round.reported)
            self._progress()
            return
        self._close_record(self._round)
        self._try_another_model()
        if not self.is_finished and not self._round.is_open:  # what is on its way belongs to a new one
            self._round = self._new_round()

    def _end_evaluation(self, task: Task) -> None:
        measured = self._measured[task.round_number]
        if all(other.state.is_final for other in measured.tasks):
            del self._measured[task.round_number]
            self._close_measured(measured, self._evaluations.mean())

    def _close_measured(self, measured: Round, evaluation: Evaluation = NO_EVALUATION) -> None:
        self._close_record(measured, evaluation)
        if self.phase is not Phase.TRAINING or self._is_counted_out:  # then evaluations are waited for
            return
        self._end_if_due()

    def _end_if_due(self) -> None:
        """End it if a signal has been reached."""
        assert self._latest is not None
        evaluations = [metrics for _, metrics in self._evaluations.reports().values()]
        if reached := reason_to_stop(self._signals, self.standing, self._latest, self.config, evaluations):
            self._finish(*reached)

    def _close_record(self, closing: Round, evaluation: Evaluation = NO_EVALUATION) -> None:
        record = self._close(closing, evaluation)
        if self._latest is None or record.number >= self._latest.number:
            self._latest = record

    def _forget(self, learner: LearnerId) -> None:
        super()._forget(learner)
        self._evaluations.forget(learner)
        self._benched.discard(learner)

    def _on_finish(self) -> None:
        if self._round.is_open and self._round.tasks:
            self._close_record(self._round)
