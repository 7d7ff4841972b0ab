"""Bulyan: a trimmed mean of the updates that Krum selects, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.collecting import (
    MAX_BYTES,
    CollectingRule,
    by_element,
    in_order,
    middle,
)
from metisfl_async.core.strategies.aggregation.geometry import products, squared_distances
from metisfl_async.core.strategies.aggregation.krum import scores

__all__ = ["Bulyan"]


class Bulyan(CollectingRule):
    """Krum selects n - 2f updates, one after another; of each element, the n - 4f values nearest to their median count.

    So an update that is close to the others and far in a few elements does no harm there. Integers and booleans are the
    median of all updates. Each learner counts once. It needs 4f + 3 learners. The round's record says who was
    selected.

    Parameters
    ----------
    f : int
        How many learners may lie.
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
    arXiv:1802.07927, section 4. Of the last updates that are left, each has one neighbour at least.
    """

    def __init__(self, f: int = 1, *, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)
        integer("f", f, 1)
        self.f, self.min_updates = f, 4 * f + 3
        self._notes: dict[LearnerId, dict[str, Json]] = {}

    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        squares = squared_distances(products(updates, self._latest))
        left, selected = list(range(len(updates))), set[int]()
        while len(selected) < len(updates) - 2 * self.f:
            best = left[int(np.argmin(scores(squares[np.ix_(left, left)], self.f)))]
            left.remove(best)
            selected.add(best)
        self._notes = {learner: {"is_selected": index in selected} for index, learner in enumerate(learners)}
        by_element([updates[index] for index in sorted(selected)], out, self._near_median, others=False)
        by_element(updates, out, middle, floats=False)

    def _near_median(self, values: Array) -> NDArray[np.float64]:
        count, kept = len(values), len(values) - 2 * self.f
        ordered = in_order(values).astype(np.float64)
        median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        nearest: NDArray[np.float64] = ordered[:kept].mean(axis=0)
        off = np.maximum(median - ordered[0], ordered[kept - 1] - median)
        for start in range(1, count - kept + 1):  # in order, those nearest to the median are neighbours
            off_there = np.maximum(median - ordered[start], ordered[start + kept - 1] - median)
            is_nearer = off_there < off
            np.copyto(nearest, ordered[start : start + kept].mean(axis=0), where=is_nearer)
            np.copyto(off, off_there, where=is_nearer)
        return nearest

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        return self._notes
