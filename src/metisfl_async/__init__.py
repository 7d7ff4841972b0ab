"""Federated learning as coroutines: a controller, learners and a driver on one event loop, or on many machines."""

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import (
    ClientParams,
    ControllerConfig,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.errors import (
    CodecError,
    ConfigError,
    MetisError,
    ProtocolError,
    QuorumLost,
    RoundError,
    TransportError,
)
from metisfl_async.core.events import (
    Event,
    EventsMissed,
    FederationFinished,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateCounted,
    event_to_dict,
)
from metisfl_async.core.model import Model
from metisfl_async.core.partition import dirichlet_partition, iid_partition, label_partition, quantity_partition
from metisfl_async.core.records import Failure, LearnerRecord, RoundRecord
from metisfl_async.driver.plot import plot_partitions
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.session import DriverSession
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.run import app, run_learner

__all__ = [
    "ClientParams",
    "CodecError",
    "ConfigError",
    "Controller",
    "ControllerConfig",
    "DriverSession",
    "Event",
    "EventsMissed",
    "Failure",
    "FederationFinished",
    "FederationResult",
    "Learner",
    "LearnerEvaluated",
    "LearnerJoined",
    "LearnerLeft",
    "LearnerRecord",
    "MetisError",
    "Model",
    "ModelPublished",
    "ModelStoreConfig",
    "ProtocolError",
    "QuorumLost",
    "RoundError",
    "RoundFinished",
    "RoundRecord",
    "RoundStarted",
    "ServerParams",
    "TaskFailed",
    "TerminationSignals",
    "TransportError",
    "UpdateCounted",
    "app",
    "dirichlet_partition",
    "event_to_dict",
    "iid_partition",
    "label_partition",
    "plot_partitions",
    "quantity_partition",
    "run_learner",
]
