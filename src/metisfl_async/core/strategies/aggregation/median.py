"""Median: of each weight, the middle one of the updates' values."""

from __future__ import annotations

from collections.abc import Sequence

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.collecting import MAX_BYTES, CollectingRule, by_element, middle

__all__ = ["Median"]


class Median(CollectingRule):
    """The median of the updates, element by element; each learner counts once, whatever its scaling factor.

    As long as fewer than half of the learners lie, each element lies between two honest ones. It needs 3 learners:
    fewer cannot outvote one.

    Parameters
    ----------
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    Yin, Chen, Kannan, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    arXiv:1803.01498, definition 1.
    """

    min_updates = 3

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)

    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        by_element(updates, out, middle)
