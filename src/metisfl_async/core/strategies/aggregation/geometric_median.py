"""GeometricMedian: the point whose distances from all updates are smallest in all (RFA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer, positive
from metisfl_async.core.errors import NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.collecting import MAX_BYTES, CollectingRule
from metisfl_async.core.strategies.aggregation.geometry import distance, fill, products, squared_distances

__all__ = ["GeometricMedian"]

CLOSE = 1e-12  #: shares that change by no more are found


class GeometricMedian(CollectingRule):
    """The geometric median of the updates, ``argmin_v sum_k |v - w_k|``; each learner counts once.

    As long as fewer than half of the learners lie, it stays near the honest ones. Distances are those of the tensors of
    floats; integers and booleans are the median of all. It needs 3 learners: fewer cannot outvote one. The round's
    record says each one's share of the model.

    Parameters
    ----------
    smoothing : float
        > 0: an update that is nearer than this counts as if it were so far away, the paper's nu.
    iterations : int
        Steps of Weiszfeld's algorithm, at most. They cost next to nothing: distances follow from products of the
        updates that are made once.
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", arXiv:1912.13445, algorithm 2, the
    smoothed Weiszfeld algorithm, with equal weights. It begins with the mean of the half that is nearest to one
    another, so that it does not matter how far away a liar is.
    """

    min_updates = 3

    def __init__(self, *, smoothing: float = 1e-6, iterations: int = 1000, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)
        positive("smoothing", smoothing)
        integer("iterations", iterations, 1)
        self.smoothing, self.iterations = smoothing, iterations
        self._notes: dict[LearnerId, dict[str, Json]] = {}

    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        of = products(updates, self._latest)
        known = np.isfinite(np.diag(of))  # the others are so far away that they have no share
        if 2 * known.sum() <= len(updates):
            raise NoModel(f"{type(self).__name__} finds half of the updates infinitely far away, or more")
        shares = np.zeros(len(updates))
        shares[known] = self._shares(of[np.ix_(known, known)], len(updates))
        self._notes = {learner: {"share": float(share)} for learner, share in zip(learners, shares, strict=True)}
        fill(out, updates, shares, self._latest)

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        return self._notes

    def _shares(self, of: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Find how much each update has in the median; they add up to 1."""
        squares, half = squared_distances(of), count // 2 + 1
        order = np.argsort(np.sort(squares, axis=1)[:, min(half, len(of)) - 1], kind="stable")
        center = int(order[0])  # the one whose nearest half is nearest
        # As seen from there, what is near keeps its digits, however far away others are.
        of = of - of[center] - of[:, [center]] + of[center, center]
        shares = np.zeros(len(of))
        shares[np.argsort(squares[center], kind="stable")[:half]] = 1.0
        shares /= shares.sum()
        for _ in range(self.iterations):
            before, shares = shares, 1.0 / np.maximum(distance(of, shares), self.smoothing)
            shares /= shares.sum()
            if np.abs(shares - before).max() <= CLOSE:
                break
        return shares
