"""TrimmedMean: of each weight, the mean of the updates' values without the largest and the smallest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.collecting import MAX_BYTES, CollectingRule, by_element, in_order

__all__ = ["TrimmedMean"]


class TrimmedMean(CollectingRule):
    """The mean without the `f` largest and the `f` smallest values, element by element; each learner counts once.

    As long as at most `f` learners lie, each element lies between two honest ones. It needs 2f + 1 learners.

    Parameters
    ----------
    f : int
        How many learners may lie.
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    Yin, Chen, Kannan, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    arXiv:1803.01498, definition 2, with beta = f / n.
    """

    def __init__(self, f: int = 1, *, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)
        integer("f", f, 1)
        self.f, self.min_updates = f, 2 * f + 1

    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        by_element(updates, out, self._trimmed)

    def _trimmed(self, values: Array) -> NDArray[np.float64]:
        kept = in_order(values)[self.f : len(values) - self.f]
        mean: NDArray[np.float64] = kept.mean(axis=0, dtype=np.float64)
        return mean
