"""Federated learning as coroutines: a controller, learners and a driver on one event loop, or on many machines."""

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import (
    ClientParams,
    ControllerConfig,
    EncryptionConfig,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    TerminationSingals,
)
from metisfl_async.core.errors import (
    CodecError,
    ConfigError,
    MetisError,
    NoModel,
    ProtocolError,
    QuorumLost,
    RoundError,
    StoreError,
    TransportError,
)
from metisfl_async.core.federation.events import (
    Event,
    EventsMissed,
    FederationFinished,
    FederationResumed,
    FederationStarted,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelEvaluated,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    StoreRecovered,
    StoreStalled,
    TaskFailed,
    UpdateCounted,
    UpdateFolded,
    UpdateRepeated,
    event_to_dict,
)
from metisfl_async.core.federation.records import BestScore, Failure, LearnerRecord, RoundRecord
from metisfl_async.core.model import Model
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
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean
from metisfl_async.core.strategies.scheduling import (
    Asynchronous,
    Scheduler,
    SemiSynchronous,
    Synchronous,
    Timing,
)
from metisfl_async.core.strategies.selection import Scheduled, ScheduledCardinality, Selector
from metisfl_async.data.partition import dirichlet_partition, iid_partition, label_partition, quantity_partition
from metisfl_async.data.report import PartitionReport, partition_report
from metisfl_async.driver.attached import AttachedSession
from metisfl_async.driver.plot import plot_partitions
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.session import DriverSession
from metisfl_async.driver.weights import load_into
from metisfl_async.environment.environment import FederationEnvironment
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.keras_learner import KerasLearner
from metisfl_async.learner.adapters.keras_parts import keras_budget_callback, keras_proximal_term
from metisfl_async.learner.adapters.sklearn_learner import SklearnLearner
from metisfl_async.learner.adapters.torch_learner import TorchLearner
from metisfl_async.learner.adapters.torch_parts import torch_proximal_term
from metisfl_async.learner.askable import askable
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.run import app, run_learner

__version__ = "0.1.0"

__all__ = [
    "AggregationRule",
    "Asynchronous",
    "AttachedSession",
    "BatchBudget",
    "BestScore",
    "Bulyan",
    "CenteredClipping",
    "ClientParams",
    "CodecError",
    "ConfigError",
    "Controller",
    "ControllerConfig",
    "DriverSession",
    "EncryptionConfig",
    "Event",
    "EventsMissed",
    "Failure",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedRec",
    "FedStride",
    "FedYogi",
    "FederationEnvironment",
    "FederationFinished",
    "FederationResult",
    "FederationResumed",
    "FederationStarted",
    "FirstWeights",
    "GeometricMedian",
    "KerasLearner",
    "Krum",
    "Learner",
    "LearnerEvaluated",
    "LearnerJoined",
    "LearnerLeft",
    "LearnerRecord",
    "LoRAStacked",
    "Median",
    "MetisError",
    "Model",
    "ModelEvaluated",
    "ModelPublished",
    "ModelStoreConfig",
    "MultiKrum",
    "NoModel",
    "NormBound",
    "PartitionReport",
    "ProtocolError",
    "QuorumLost",
    "RoundError",
    "RoundFinished",
    "RoundRecord",
    "RoundStarted",
    "Scheduled",
    "ScheduledCardinality",
    "Scheduler",
    "Selector",
    "SemiSynchronous",
    "ServerParams",
    "SklearnLearner",
    "StoreError",
    "StoreRecovered",
    "StoreStalled",
    "Synchronous",
    "TaskFailed",
    "TerminationSignals",
    "TerminationSingals",
    "Timing",
    "TorchLearner",
    "TransportError",
    "TrimmedMean",
    "Update",
    "UpdateCounted",
    "UpdateFolded",
    "UpdateRepeated",
    "app",
    "askable",
    "dirichlet_partition",
    "event_to_dict",
    "iid_partition",
    "keras_budget_callback",
    "keras_proximal_term",
    "label_partition",
    "load_into",
    "partition_report",
    "plot_partitions",
    "quantity_partition",
    "run_learner",
    "torch_proximal_term",
]
