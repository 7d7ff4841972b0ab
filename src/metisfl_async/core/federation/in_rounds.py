"""A federation in rounds: a cohort trains, its updates become a global model, the cohort evaluates it."""

from __future__ import annotations

from metisfl_async.core.federation.commands import Command, Discard
from metisfl_async.core.federation.events import RoundStarted
from metisfl_async.core.federation.federation import Federation, Phase
from metisfl_async.core.federation.tasks import Task, TaskKind
from metisfl_async.core.federation.termination import reason_to_stop
from metisfl_async.core.ids import LearnerId

__all__ = ["FederationInRounds"]


class FederationInRounds(Federation):
    """Decides for schedulers with rounds: Synchronous, SemiSynchronous, and users' own."""

    def phase_timed_out(self) -> list[Command]:
        for task in tuple(self._ledger.awaited.values()):
            timeout = f"round_timeout_secs={self.config.round_timeout_secs:g}"
            self._expire(task, f"round {task.round_number} did not wait longer than {timeout}")
        self._progress()
        return self._take()

    def _train(self) -> None:
        """Open a round."""
        self._round, begun_at = self._new_round(), self._clock()
        number, version = self._round.number, self._round.record.model_version
        cohort = self._strategies.select(self.connected, 0)
        plans = self._strategies.plan(cohort, self._timings)
        self._round.record.selection_ms = (self._clock() - begun_at) * 1e3
        self._enter(Phase.TRAINING)
        self._announce(RoundStarted(number, version, [*cohort]))
        for learner in cohort:
            part = self._round.part(learner)
            task = self._assign(TaskKind.TRAIN, learner, self._round, version=version, params=plans[learner], part=part)
            self._round.add(task)
            self._offer(task)

    def _on_counted(self, task: Task, held_bytes: int) -> None:
        self._round.count(task, held_bytes)

    def _on_evaluated(self, task: Task) -> None:
        pass

    def _on_failed(self, task: Task) -> None:
        pass

    def _advance(self) -> None:
        awaited = self._ledger.awaited
        if self.phase is Phase.TRAINING and awaited and self._strategies.is_due(self._round.reported, awaited.keys()):
            for task in tuple(awaited.values()):
                self._expire(task, f"round {task.round_number} was closed without it by its scheduler")
        if awaited:
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
            self._do(Discard())
            self._close(self._round)
            self._try_again(f"round {self._round.number} has {counted} of min_learners={needed} updates")

    def _on_published(self, version: int) -> None:
        """Ask the cohort to evaluate; who is away gets its task on coming back."""
        self._enter(Phase.EVALUATING)
        every = self.config.evaluate_every
        if every and self._round.number % every == 0:
            for learner, part in self._round.record.learners.items():
                if (name := LearnerId(learner)) in self._present:
                    params = self.config.eval_params
                    task = self._assign(TaskKind.EVALUATE, name, self._round, version=version, params=params, part=part)
                    self._round.add(task)
                    if learner in self._connected:
                        self._offer(task)

    def _end_round(self) -> None:
        record = self._close(self._round)
        if reason := reason_to_stop(self._signals, self._num_published, record):
            self._finish(reason)
        else:
            self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _on_finish(self) -> None:
        if self._round.is_open:
            self._close(self._round)
