"""Types for annotations."""

from metisfl_async.core.config.controller import ParamsHook
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.scaling import ScalingFactor
from metisfl_async.driver.watching import Watched
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.worker import WorkerKind

__all__ = [
    "Array",
    "Config",
    "Json",
    "LearnerId",
    "Metrics",
    "ParamsHook",
    "ScalingFactor",
    "TrainResult",
    "Watched",
    "WorkerKind",
]
