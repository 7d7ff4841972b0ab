"""The aggregation rules by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi

__all__ = ["RULES"]

#: With their default parameters; `FedStride` is made with `ControllerConfig.stride_length`.
RULES: Mapping[str, Callable[[], AggregationRule]] = {
    "FedAvg": FedAvg,
    "FedStride": FedStride,
    "FedRec": FedRec,
    "FedAsync": FedAsync,
    "FedBuff": FedBuff,
    "FedAvgM": FedAvgM,
    "FedAdagrad": FedAdagrad,
    "FedYogi": FedYogi,
    "FedAdam": FedAdam,
}
