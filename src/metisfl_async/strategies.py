"""Who decides in a federation: rules, schedulers and selectors, and what your own are made of."""

from metisfl_async.core.strategies.aggregation.bulyan import Bulyan
from metisfl_async.core.strategies.aggregation.centered_clipping import CenteredClipping
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.geometric_median import GeometricMedian
from metisfl_async.core.strategies.aggregation.krum import Krum, MultiKrum
from metisfl_async.core.strategies.aggregation.lora_stacked import LoRAStacked
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.private_average import PrivateAverage
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from metisfl_async.core.strategies.aggregation.spreading import spread
from metisfl_async.core.strategies.aggregation.tree_bagging import TreeBagging
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean
from metisfl_async.core.strategies.scheduling import Asynchronous, Scheduler, SemiSynchronous, Synchronous, Timing
from metisfl_async.core.strategies.selection import Scheduled, ScheduledCardinality, Selector

__all__ = [
    "AggregationRule",
    "Asynchronous",
    "Bulyan",
    "CenteredClipping",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedRec",
    "FedStride",
    "FedYogi",
    "GeometricMedian",
    "Krum",
    "LoRAStacked",
    "Median",
    "MultiKrum",
    "NormBound",
    "PrivateAverage",
    "Scheduled",
    "ScheduledCardinality",
    "Scheduler",
    "Selector",
    "SemiSynchronous",
    "Synchronous",
    "Timing",
    "TreeBagging",
    "TrimmedMean",
    "Update",
    "spread",
]
