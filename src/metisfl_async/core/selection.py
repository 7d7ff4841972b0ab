"""Who takes part in a round."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from metisfl_async.core.ids import LearnerId

__all__ = ["select_cohort"]


def select_cohort(
    connected: Sequence[LearnerId], participation_ratio: float, min_learners: int, rng: random.Random
) -> list[LearnerId]:
    """Draw a cohort without replacement, each learner as likely as any other.

    Parameters
    ----------
    connected : sequence of LearnerId
        Sorted, so that the same `rng` draws the same; at least `min_learners`.
    participation_ratio : float
        Share of the connected learners, in (0, 1]; rounded up.
    min_learners : int
        The cohort has at least so many.

    Returns
    -------
    list of LearnerId
        Sorted.

    References
    ----------
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas, arXiv:1602.05629, algorithm 1, the client fraction C.
    """
    size = max(math.ceil(participation_ratio * len(connected)), min_learners)
    return list(connected) if size == len(connected) else sorted(rng.sample(connected, size))
