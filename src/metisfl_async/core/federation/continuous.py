"""A federation without rounds: learners train all the time, and their updates become global models as they come."""

from __future__ import annotations

from collections.abc import Callable

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation.commands import Command, StartTimer
from metisfl_async.core.federation.events import RoundStarted
from metisfl_async.core.federation.federation import Federation, Phase
from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.federation.round import Round
from metisfl_async.core.federation.running_means import RunningMeans
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.federation.termination import reason_to_stop
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.strategies.strategies import Strategies

__all__ = ["ContinuousFederation"]


class ContinuousFederation(Federation):
    """Decides for schedulers without rounds: Asynchronous, and users' own.

    Each global model has a record, under its version: `_round` is that of the next one, which collects updates;
    `_measured` are those whose evaluations are awaited. A learner that reported evaluates the model that came of it,
    and then trains that one.
    """

    def __init__(self, config: ControllerConfig, strategies: Strategies, clock: Callable[[], float]) -> None:
        super().__init__(config, strategies, clock)
        self._benched: set[LearnerId] = set()  # failed; they are asked again when there is a new model
        self._measured: dict[int, Round] = {}
        self._evaluations = RunningMeans()  # of each learner's latest, with its latest scaling factor
        self._fetched: dict[LearnerId, int] = {}  # the model that a learner has just evaluated

    def phase_timed_out(self) -> list[Command]:
        timeout_s = self.config.round_timeout_secs
        assert timeout_s is not None
        now = self._clock()
        for task in tuple(self._ledger.awaited.values()):
            if task.made_at + timeout_s <= now:
                self._expire(task, f"it took longer than round_timeout_secs={timeout_s:g}")
        self._progress()
        if not self.is_finished and self.phase is not Phase.GATHERING:
            oldest = next(iter(self._ledger.awaited.values()), None)
            due_at = now if oldest is None or oldest.made_at + timeout_s <= now else oldest.made_at
            self._do(StartTimer("phase", due_at + timeout_s - now))
        return self._take()

    def _train(self) -> None:
        if not self._round.is_open:
            self._round = self._new_round()
        self._benched.clear()
        self._enter(Phase.TRAINING)
        self._advance()

    def _advance(self) -> None:
        if self.phase is Phase.EVALUATING:  # the last model
            if not self._ledger.awaited:
                self._finish(reason_to_stop(self._signals, self._num_published, self.records[-1]) or "")
            return
        if self._is_aggregating:
            return
        reported, strategies = self._round.reported, self._strategies
        is_enough = len(reported) >= strategies.rule.updates_per_version
        if is_enough and strategies.is_due(reported, self._ledger.awaited.keys()):
            self._aggregate(set(reported))
            return
        self._give_work()
        if not self._ledger.awaited:
            self._pause()

    def _give_work(self) -> None:
        """Give training tasks to those who have nothing to do."""
        idle = sorted(self._connected - self._ledger.awaited.keys() - self._benched)
        fetched, self._fetched = self._fetched, {}
        if not idle or self.num_connected < self.config.min_learners:
            return
        chosen = self._strategies.select(idle, len(self._ledger.awaited))
        if not chosen:
            return
        assert self.model_version is not None
        plans = self._strategies.plan(chosen, self._timings)
        self._announce(RoundStarted(self._round.number, self.model_version, [*chosen], in_rounds=False))
        for learner in chosen:
            version = fetched.get(learner, self.model_version)
            task = self._assign(
                TaskKind.TRAIN, learner, self._round, version=version, params=plans[learner], part=LearnerRecord()
            )
            self._offer(task)

    def _pause(self) -> None:
        """Wait for learners, or for better luck: nobody is at work."""
        if self.num_connected < self.config.min_learners:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)
            return
        if not self._round.reported:
            self._close(self._round, {})
        self._try_again(f"nobody could train for model version {self._round.number}")

    def _on_counted(self, task: Task, held_bytes: int) -> None:
        self._round.add(task)
        self._round.count(task, held_bytes)
        self._evaluations.weigh(task.learner, self._weights[task.learner])
        self._failed_rounds = 0

    def _on_failed(self, task: Task) -> None:
        if task.kind is TaskKind.EVALUATE:
            self._end_evaluation(task)
        elif task.kind is TaskKind.TRAIN and task.state is not TaskState.CANCELLED:
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
        self._benched.clear()
        every = self.config.evaluate_every
        if every and published.number % every == 0:
            for learner in dict.fromkeys(published.reported):
                if learner in self._connected and learner not in self._ledger.awaited:
                    task = self._assign(
                        TaskKind.EVALUATE,
                        learner,
                        published,
                        version=version,
                        params=self.config.eval_params,
                        part=published.part(learner),
                    )
                    published.add(task)
                    self._measured[published.number] = published
                    self._offer(task)
        if published.number not in self._measured:
            self._close_measured(published, {})
        if self.phase is Phase.TRAINING and self._num_published == self._signals.global_updates:
            self._enter(Phase.EVALUATING)
            for task in tuple(self._ledger.awaited.values()):
                if task.kind is TaskKind.TRAIN:
                    self._give_up(task, TaskState.CANCELLED, "the federation ended")

    def _end_evaluation(self, task: Task) -> None:
        measured = self._measured[task.round_number]
        if all(other.state.is_final for other in measured.tasks):
            del self._measured[task.round_number]
            self._close_measured(measured, self._evaluations.means())

    def _close_measured(self, measured: Round, evaluation: Metrics) -> None:
        record = self._close(measured, evaluation)
        is_counted_out = self._num_published == self._signals.global_updates  # then evaluations are waited for
        if self.phase is not Phase.TRAINING or is_counted_out:
            return
        if reason := reason_to_stop(self._signals, self._num_published, record):
            self._finish(reason)

    def _forget(self, learner: LearnerId) -> None:
        super()._forget(learner)
        self._evaluations.forget(learner)
        self._benched.discard(learner)

    def _on_finish(self) -> None:
        if self._round.is_open and self._round.tasks:
            self._close(self._round, {})
