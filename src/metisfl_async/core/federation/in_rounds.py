"""A federation in rounds: a cohort trains, its updates become a global model, the cohort evaluates it."""

from __future__ import annotations

from time import perf_counter

from metisfl_async.core.federation.commands import KeepBest, StartTimer, StopTimer
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.events import ModelEvaluated, RoundStarted, TaskFailed
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.inputs import CENTRAL_S, CentralEvaluation, Unpublished, gave_up
from metisfl_async.core.federation.records import BestScore, RoundRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.standing import OpenRound, of_task
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.federation.termination import is_better, reason_to_stop, score_of
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.texts import MAX_NAME, plain, plain_names

__all__ = ["FederationInRounds"]


class FederationInRounds(Federation):
    """Decides for schedulers with rounds: Synchronous, SemiSynchronous, and users' own."""

    _awaits_central = False  # whether the driver is to say what it measured

    def _phase_timed_out(self) -> None:
        for task in tuple(self.ledger.awaited.values()):
            timeout = f"round_timeout_secs={self.config.round_timeout_secs:g}"
            self._desk.expire(task, f"round {task.round_number} did not wait longer than {timeout}")
        late = f"the round did not wait longer than round_timeout_secs={self.config.round_timeout_secs:g}"
        self._on_central(gave_up(self.model_version, late))
        self._progress()

    def _train(self) -> None:
        """Open a round."""
        self._round, begun_at = self._new_round(), perf_counter()
        number, version = self._round.number, self._round.record.model_version
        carried = [task for tasks in self.ledger.folded.values() for task in tasks]
        for task in carried:
            self._round.carry(task)
        idle = [learner for learner in self.connected if learner not in self.ledger.folded]
        cohort = self._strategies.select(idle, len(self.ledger.folded)) if idle or not carried else []
        plans = self._strategies.plan(cohort, self.standing.timings)
        self._round.record.selection_ms = (perf_counter() - begun_at) * 1e3
        self._enter(Phase.TRAINING)
        self._announce(RoundStarted(number, version, [*cohort]))
        for learner in cohort:
            part = self._round.part(learner)
            params = plans[learner]
            task = self._desk.assign(TaskKind.TRAIN, learner, self._round, version=version, params=params, part=part)
            self._round.add(task)
        self._save(self._offer_all)

    def _offer_all(self) -> None:
        """Send the tasks of the round that has been opened; who is away gets its own on coming back."""
        for task in tuple(self.ledger.awaited.values()):
            if task.state is TaskState.PENDING and task.learner in self._connected:
                self._desk.offer(task)
        if not self.ledger.awaited:
            self._progress()

    def _resume_rounds(self, rounds: list[Round]) -> None:
        if not rounds:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)
            return
        (self._round,) = rounds
        if self._round.record.is_published:
            assert self.model_version is not None
            self._on_published(self.model_version)
        else:
            self._enter(Phase.TRAINING)

    def _open_rounds(self) -> list[OpenRound]:
        if not self._round.is_open or self._is_aggregating:
            return []
        if self._round.record.is_published:
            return [OpenRound(self._round.as_published())]
        tasks = [task for task in self._round.tasks if task.kind is TaskKind.TRAIN]
        held = [task for task in tasks if not task.state.is_final]
        return [OpenRound(self._round.record, [of_task(task) for task in held])]

    def _on_folded(self, task: Task, held_bytes: int) -> None:
        self._round.fold(task, held_bytes)

    def _on_evaluated(self, task: Task) -> None:
        pass

    def _on_failed(self, task: Task) -> None:
        pass

    def _advance(self) -> None:
        awaited = self.ledger.awaited
        if self.phase is Phase.TRAINING and awaited and self._strategies.is_due(self._round.reported, awaited.keys()):
            for task in tuple(awaited.values()):
                self._desk.expire(task, f"round {task.round_number} was closed without it by its scheduler")
        if awaited or self._awaits_central:
            return
        match self.phase:
            case Phase.TRAINING:
                self._end_training()
            case Phase.EVALUATING:
                self._end_round()
            case _:
                pass

    def _end_training(self) -> None:
        counted, needed = len(self._round.reported), self.config.min_learners
        if counted >= needed:
            self._enter(Phase.AGGREGATING)
            self._aggregate([task.learner for task in self._round.tasks])
        else:
            self._close(self._round)
            self._try_again(f"round {self._round.number} has {counted} of min_learners={needed} updates")

    def _on_published(self, version: int) -> None:
        """Ask the cohort to evaluate; who is away gets its task on coming back."""
        self._enter(Phase.EVALUATING)
        if self._is_evaluated(self._round.number):
            for learner, part in self._round.record.learners.items():
                if (name := LearnerId(learner)) in self._present:
                    params = self.config.eval_params
                    task = self._desk.assign(
                        TaskKind.EVALUATE, name, self._round, version=version, params=params, part=part
                    )
                    self._round.add(task)
                    if learner in self._connected:
                        self._desk.offer(task)

        if self.standing.evaluates:
            self._awaits_central = True
            self._do(StartTimer("central", CENTRAL_S))

    def _is_evaluated(self, number: int) -> bool:
        """Whether learners evaluate the model of this round."""
        every = self.config.evaluate_every
        return every > 0 and number % every == 0

    def _on_central(self, report: CentralEvaluation) -> None:
        if not self._awaits_central or report.model_version != self.model_version:
            return
        if report.metrics is None and not report.error_type:  # it is at work
            self._do(StartTimer("central", CENTRAL_S))
            return
        self._awaits_central = False
        self._do(StopTimer("central"))
        number = self._round.number
        if report.metrics is None:
            error_type, message = plain(report.error_type, MAX_NAME), plain(report.message)
            self._announce(TaskFailed(number, "the driver", "evaluate", error_type, message))
        else:
            self._round.record.central = plain_names(report.metrics)
            self._announce(ModelEvaluated(number, self._round.record.central))

    def _on_unpublished(self, unpublished: Unpublished) -> None:
        self._close(self._round)
        self._try_another_model()

    def _end_round(self) -> None:
        record = self._close(self._round)
        evaluations = list(record.evaluations.values())
        if self.config.cutoff_score == "quorum":  # as for `min_learners`, a relay is one: it could name any number
            evaluations = [part.evaluation_metrics for part in record.learners.values()]
        self._look_for_best(record, evaluations)
        if reached := reason_to_stop(self._signals, self.standing, record, self.config, evaluations):
            self._finish(*reached)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _look_for_best(self, record: RoundRecord, evaluations: list[Metrics]) -> None:
        """Keep the model that has just been measured, if it is better than all before."""
        metric, mode, best = self.config.best_metric, self.config.best_mode, self.standing.best
        if metric is None or (scored := score_of(metric, mode, record, self.config, evaluations)) is None:
            return
        _, score = scored
        if is_better(score, None if best is None else best.score, mode):
            assert self.model_version is not None
            self.standing.best = BestScore(metric, score, self.model_version, record.number)
            self._do(KeepBest())

    def _on_finish(self) -> None:
        self._awaits_central = False
        if self._round.is_open:
            self._close(self._round)
