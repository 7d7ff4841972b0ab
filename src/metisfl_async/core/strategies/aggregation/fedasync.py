"""FedAsync: each update is mixed into the global model, the less the older the model is that it started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from metisfl_async.core.checks import number, one_of, positive
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["FedAsync", "Staleness"]

Staleness: TypeAlias = Literal["constant", "polynomial", "hinge"]


class FedAsync(AggregationRule):
    """``G = (1 - a) * G + a * w_k`` with ``a = mixing * s(staleness)``; the scaling factor plays no part.

    Parameters
    ----------
    mixing : float
        In (0, 1]: how much an update that is not stale counts.
    staleness : {"constant", "polynomial", "hinge"}
        ``s(t)`` is 1; ``(1 + t) ** -exponent``; or 1 up to `hinge_start` and ``1 / (slope * (t - hinge_start) + 1)``
        beyond, where t is the number of global models published since the one that the update started from.
    exponent, slope, hinge_start : float
        >= 0; the paper's a of the polynomial, a of the hinge, and b.

    References
    ----------
    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv:1903.03934, algorithm 1 and section 5.2.
    """

    in_rounds = False
    starts_afresh = False

    def __init__(
        self,
        mixing: float = 0.6,
        staleness: Staleness = "polynomial",
        *,
        exponent: float = 0.5,
        slope: float = 10.0,
        hinge_start: float = 4.0,
    ) -> None:
        positive("mixing", mixing, most=1)
        one_of("staleness", staleness, get_args(Staleness))
        for name, value in (("exponent", exponent), ("slope", slope), ("hinge_start", hinge_start)):
            number(name, value, least=0)
        self.mixing, self.staleness = mixing, staleness
        self.exponent, self.slope, self.hinge_start = exponent, slope, hinge_start

    def start(self, model: Model) -> None:
        self._model = Sum(model.manifest)  # float64, so that small steps are not lost
        self._model.add(model, 1.0)

    def fold(self, update: Update) -> None:
        share = self.mixing * self.discount(update.staleness)
        self._model.scale(1.0 - share)
        self._model.add(update.model, share)

    def aggregate(self, version: int) -> Model:
        return self._model.divided_by(1.0, version)

    def discard(self) -> None:
        """Keep them: what is mixed in stays in."""

    def state(self) -> Mapping[str, Array]:
        return {str(index): part for index, part in enumerate(self._model.parts())}

    def restore(self, models: Sequence[Model], state: Mapping[str, Array]) -> None:
        self.start(models[-1])
        if state:  # none before the first update
            self._model.load([state[str(index)] for index in range(len(state))])

    def discount(self, staleness: int) -> float:
        """Give ``s(staleness)``, in (0, 1]."""
        if self.staleness == "constant":
            return 1.0
        if self.staleness == "polynomial":
            return float((1.0 + staleness) ** -self.exponent)
        return 1.0 / (self.slope * max(staleness - self.hinge_start, 0.0) + 1.0)
