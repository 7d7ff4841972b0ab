"""FedAvg: the weighted mean of one round's updates; and FedStride, the same mean in strides."""

from __future__ import annotations

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum
from metisfl_async.core.strategies.aggregation.reproducible_sum import ReproducibleSum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["FedAvg", "FedStride"]


class FedAvg(AggregationRule):
    """``sum(s_k * w_k) / sum(s_k)`` over the updates of a round.

    Each update is added to a sum and forgotten: the memory is one float64 sum, however many learners.

    Parameters
    ----------
    reproducible : bool
        Whether the model must be the same bit for bit, in whatever order updates come, and however relays and workers
        group them. It needs three times the memory of the sum, and more time; see `ReproducibleSum`.

    References
    ----------
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", arXiv:1602.05629.
    """

    aggregates_again = True
    is_mean = True
    reproducible = False

    def __init__(self, *, reproducible: bool = False) -> None:
        if not isinstance(reproducible, bool):
            raise ConfigError("reproducible", reproducible, "True or False")
        self.reproducible = reproducible

    @property
    def sum_form(self) -> type[Sum]:
        return ReproducibleSum if self.reproducible else Sum

    def start(self, model: Model) -> None:
        self._sum = self.sum_form(model.manifest)

    def fold(self, update: Update) -> None:
        self._sum.add(update.model, update.weight)

    def fold_sum(self, partial: PartialSum) -> None:
        self._sum.add_parts(partial.parts, partial.weight)

    def summed(self) -> Sum:
        """Give the sum as it is; it changes with the next `fold`."""
        return self._sum

    def aggregate(self, version: int) -> Model:
        model = self._sum.divided_by(self._sum.weight, version)
        self.discard()
        return model

    def discard(self) -> None:
        self._sum.clear()


class FedStride(FedAvg):
    """FedAvg with at most `stride_length` updates in memory at a time; the same mean.

    MetisFL's rule for more learners than memory. Since updates are added as they arrive, FedAvg needs no more memory
    here; a stride is a second bound, in updates, beside `ControllerConfig.max_inflight_bytes`, and the blocks of a
    round's record are strides.

    Parameters
    ----------
    stride_length : int, optional
        Without it, all learners of a round are one stride, which is FedAvg.
    reproducible : bool
        As that of FedAvg.
    """

    def __init__(self, stride_length: int | None = None, *, reproducible: bool = False) -> None:
        super().__init__(reproducible=reproducible)
        if stride_length is not None:
            integer("stride_length", stride_length, 1)
        self.stride_length = stride_length
