"""Krum and MultiKrum: the updates that have the closest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.collecting import MAX_BYTES, CollectingRule
from metisfl_async.core.strategies.aggregation.geometry import fill, products, squared_distances

__all__ = ["Krum", "MultiKrum", "scores"]


class MultiKrum(CollectingRule):
    """The mean of the `m` updates whose n - f - 2 nearest neighbours are closest; each learner counts once.

    Distances are those of the tensors of floats; integers and booleans are the median of all. It needs 2f + 3
    learners, and m + f + 2. The round's record says who was selected.

    Parameters
    ----------
    f : int
        How many learners may lie.
    m : int, optional
        How many updates are selected; without it n - f - 2 of n, as many as may be.
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017, arXiv:1703.02757.
    """

    def __init__(self, f: int = 1, m: int | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)
        integer("f", f, 1)
        if m is not None:
            integer("m", m, 1)
        self.f, self.m = f, m
        self.min_updates = max(2 * f + 3, (m or 1) + f + 2)
        self._notes: dict[LearnerId, dict[str, Json]] = {}

    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        count = len(updates)
        m = count - self.f - 2 if self.m is None else self.m
        order = np.argsort(scores(squared_distances(products(updates, self._latest)), self.f), kind="stable")
        shares = np.zeros(count)
        shares[order[:m]] = 1.0 / m
        self._notes = {learner: {"is_selected": bool(share)} for learner, share in zip(learners, shares, strict=True)}
        fill(out, updates, shares, self._latest)

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        return self._notes


class Krum(MultiKrum):
    """The one update whose n - f - 2 nearest neighbours are closest: `MultiKrum` with m = 1. It needs 2f + 3 learners.

    Parameters
    ----------
    f : int
        How many learners may lie.
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017, arXiv:1703.02757, section 3.
    """

    def __init__(self, f: int = 1, *, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(f, 1, max_bytes=max_bytes)


def scores(squares: NDArray[np.float64], f: int) -> NDArray[np.float64]:
    """Add up each update's squared distances from its n - f - 2 nearest neighbours, at least one; shape (updates,)."""
    nearest = np.sort(squares, axis=1)[:, 1 : 1 + max(len(squares) - f - 2, 1)]  # the first is the update itself
    total: NDArray[np.float64] = nearest.sum(axis=1)
    return total
