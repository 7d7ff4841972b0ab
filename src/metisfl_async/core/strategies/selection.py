"""Selectors: who takes part in a round, and whose earlier updates are in the mean beside theirs."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json

__all__ = ["Scheduled", "ScheduledCardinality", "Selector"]


class Selector(ABC):
    """Chooses learners. The controller works on a copy of the object in its configuration."""

    needs_updates: bool = False  #: whether `others` may name anybody; then each learner's latest update is kept

    @abstractmethod
    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        """Choose who gets a training task.

        Parameters
        ----------
        candidates : sequence of LearnerId
            Connected learners without a task, sorted.
        num_busy : int
            How many have a task; 0 where there are rounds.
        rng : random.Random
            Seeded with the session's seed; with it, the same federation makes the same choice.

        Returns
        -------
        sequence of LearnerId
            Some of the candidates; none only while others are busy.
        """

    def others(self, scheduled: Collection[LearnerId], active: Collection[LearnerId]) -> Collection[LearnerId]:
        """Say whose latest updates join the mean beside those of the `scheduled` learners.

        Asked for rules that make each model of nothing but updates, such as FedAvg. `active` are the learners that are
        there and have reported at least once.
        """
        return ()

    def state(self) -> Json:
        """Say what it remembers from call to call, as JSON-like data: a durable federation writes it down.

        None if it remembers nothing. One of your own that keeps attributes must say it, for a durable federation.
        """
        return None

    def restore(self, state: Json) -> None:  # noqa: B027 - most remember nothing
        """Take up what `state` gave, after the controller was started again."""


class Scheduled(Selector):
    """Draws a share of the connected learners, each as likely as any other; the mean is theirs alone.

    Parameters
    ----------
    participation_ratio : float
        Share of the connected learners that is at work at a time, in (0, 1]; rounded up.
    min_learners : int
        At least so many are.

    References
    ----------
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas, arXiv:1602.05629, algorithm 1, the client fraction C.
    """

    def __init__(self, participation_ratio: float, min_learners: int) -> None:
        self.participation_ratio, self.min_learners = participation_ratio, min_learners

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        connected = len(candidates) + num_busy
        size = max(math.ceil(self.participation_ratio * connected), self.min_learners) - num_busy
        return candidates if size >= len(candidates) else sorted(rng.sample(candidates, max(size, 0)))


class ScheduledCardinality(Scheduled):
    """MetisFL's selector: where fewer than two learners are scheduled, the mean is that of all active ones.

    So FedAvg without rounds is the mean of everybody's latest update.
    """

    needs_updates = True

    def others(self, scheduled: Collection[LearnerId], active: Collection[LearnerId]) -> Collection[LearnerId]:
        return [learner for learner in active if learner not in scheduled] if len(scheduled) < 2 else ()
