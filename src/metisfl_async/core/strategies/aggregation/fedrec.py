"""FedRec: the weighted mean of every learner's latest update, kept up to date as they come."""

from __future__ import annotations

import math

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import CompensatedSum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["FedRec"]


class FedRec(AggregationRule):
    """``sum(s_k * latest_k) / sum(s_k)`` over all learners that have reported and not left.

    A learner's new update takes the place of its old one: ``W += s_new * w_new - s_old * w_old``, with the weight that
    the old one was added with. The work for an update does not depend on the number of learners. The controller keeps
    each learner's latest update in the model store; a learner that leaves takes its share along.

    References
    ----------
    The recency rule of MetisFL, Stripelis, Thompson, Ambite, "Semi-Synchronous Federated Learning for Energy-Efficient
    Training and Accelerated Convergence in Cross-Silo Settings", doi:10.1145/3524885, and its asynchronous protocol.
    """

    starts_afresh = False
    needs_previous = True

    def start(self, model: Model) -> None:
        self._sum, self._model = CompensatedSum(model.manifest), model
        self._weights: dict[LearnerId, float] = {}  # of those whose update is in the sum

    def fold(self, update: Update) -> None:
        if update.previous is not None:
            self._take_out(update.previous)
        self._sum.add(update.model, update.weight)
        self._weights[update.learner] = update.weight

    def aggregate(self, version: int) -> Model:
        if not self._weights:  # all have left meanwhile: the model stays as it is
            return Model(self._model.manifest, self._model.buffer.copy(), version)
        self._model = self._sum.divided_by(math.fsum(self._weights.values()), version)
        return self._model

    def discard(self) -> None:
        """Keep them: an update is its learner's latest, whether or not a model was made of it."""

    def remove(self, update: Update) -> None:
        self._take_out(update)

    def _take_out(self, update: Update) -> None:
        """Subtract what was added; an update from before this federation was never added."""
        if (weight := self._weights.pop(update.learner, None)) is None:
            return
        if self._weights:
            self._sum.add(update.model, -weight)
        else:
            self._sum.clear()  # nobody is left: exactly zero
