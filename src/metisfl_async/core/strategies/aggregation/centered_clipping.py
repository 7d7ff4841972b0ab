"""CenteredClipping: the mean of the updates, each pulled in to a radius around the model before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from metisfl_async.core.checks import integer, positive
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.collecting import MAX_BYTES, CollectingRule
from metisfl_async.core.strategies.aggregation.geometry import distance, fill, products

__all__ = ["CenteredClipping"]


class CenteredClipping(CollectingRule):
    """``v += mean_k((w_k - v) * min(1, tau / |w_k - v|))``, from the global model; each learner counts once.

    Whoever lies moves the model by no more than ``tau / n`` in a step. Distances are those of the tensors of floats;
    integers and booleans are the median of all. It needs 3 learners: fewer cannot outvote one. The round's record says
    each one's share of the model.

    Parameters
    ----------
    tau : float
        > 0: the radius, in the units of the model; about what the updates of honest learners change, which is the
        `update_norm` of a round's record.
    iterations : int
        How many steps; the paper's l. With more, the model follows updates that are further away than `tau`.
    max_bytes : int
        How many bytes of updates are kept; an update more is refused.

    References
    ----------
    Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, arXiv:2012.10333,
    algorithm 2. The momentum that the paper adds is the learners' affair.
    """

    min_updates = 3

    def __init__(self, tau: float, *, iterations: int = 1, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)
        positive("tau", tau)
        integer("iterations", iterations, 1)
        self.tau, self.iterations = tau, iterations
        self._notes: dict[LearnerId, dict[str, Json]] = {}

    def combine(self, learners: Sequence[LearnerId], updates: Sequence[Model], out: Model) -> None:
        of, count = products(updates, self._latest), len(updates)
        known = np.isfinite(np.diag(of))  # of the others, so little is left that it is nothing
        of, shares = of[np.ix_(known, known)], np.zeros(count)
        found = np.zeros(len(of))
        for _ in range(self.iterations):
            kept = self.tau / np.maximum(distance(of, found), self.tau)
            found = found * (1.0 - kept.sum() / count) + kept / count
        shares[known] = found
        self._notes = {learner: {"share": float(share)} for learner, share in zip(learners, shares, strict=True)}
        fill(out, updates, shares, self._latest)

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        return self._notes
