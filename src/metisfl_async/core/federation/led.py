"""A federation in rounds that is led: each round begins, and each model is evaluated, when somebody says so."""

from __future__ import annotations

from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.in_rounds import FederationInRounds
from metisfl_async.core.federation.tasks import TaskKind

__all__ = ["LedFederation"]


class LedFederation(FederationInRounds):
    """Decides for the learners below a relay, whose rounds are those of its parent.

    Between rounds it gathers, however many learners are there. A round that came to nothing is tried again by itself.
    """

    _may_train = False  # whether the next round may begin
    _is_measured = False  # whether the next model is evaluated

    def _proceed(self, kind: TaskKind, note: str) -> None:
        self._is_measured = kind is TaskKind.EVALUATE
        if kind is TaskKind.TRAIN:
            self._may_train, self.standing.note = True, note
            if self.phase is Phase.GATHERING:
                self._gather(self.config.min_learners, self.config.quorum_timeout_secs)

    def _train(self) -> None:
        if self._may_train:
            super()._train()

    def _enter(self, phase: Phase) -> None:
        if phase is Phase.AGGREGATING:
            self._may_train = self._is_measured = False
        super()._enter(phase)

    def _is_evaluated(self, number: int) -> bool:
        return self._is_measured
