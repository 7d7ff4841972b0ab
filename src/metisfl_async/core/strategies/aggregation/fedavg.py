"""FedAvg: the weighted mean of one round's updates; and FedStride, the same mean in strides."""

from __future__ import annotations

from collections.abc import Sequence

from metisfl_async.core.checks import integer
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Floats, Sum
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["FedAvg", "FedStride"]


class FedAvg(AggregationRule):
    """``sum(s_k * w_k) / sum(s_k)`` over the updates of a round.

    Each update is added to a sum and forgotten: the memory is one float64 sum, however many learners.

    References
    ----------
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", arXiv:1602.05629.
    """

    aggregates_again = True
    is_mean = True

    def start(self, model: Model) -> None:
        self._sum, self._weight = Sum(model.manifest), 0.0

    def fold(self, update: Update) -> None:
        self._sum.add(update.model, update.weight)
        self._weight += update.weight

    def fold_sum(self, partial: PartialSum) -> None:
        self._sum.add_parts(partial.parts)
        self._weight += partial.weight

    def summed(self) -> Sequence[Floats]:
        """Give the sum as it is, one array for each run of the manifest; they change with the next `fold`."""
        return self._sum.parts()

    def aggregate(self, version: int) -> Model:
        model = self._sum.divided_by(self._weight, version)
        self.discard()
        return model

    def discard(self) -> None:
        self._sum.clear()
        self._weight = 0.0


class FedStride(FedAvg):
    """FedAvg with at most `stride_length` updates in memory at a time; the same mean.

    MetisFL's rule for more learners than memory. Since updates are added as they arrive, FedAvg needs no more memory
    here; a stride is a second bound, in updates, beside `ControllerConfig.max_inflight_bytes`, and the blocks of a
    round's record are strides.

    Parameters
    ----------
    stride_length : int, optional
        Without it, all learners of a round are one stride, which is FedAvg.
    """

    def __init__(self, stride_length: int | None = None) -> None:
        if stride_length is not None:
            integer("stride_length", stride_length, 1)
        self.stride_length = stride_length
