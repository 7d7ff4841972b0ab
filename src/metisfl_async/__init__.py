"""Federated learning as coroutines: a controller, learners and a driver on one event loop, or on many machines.

What most programs need is here. The rest is in `metisfl_async.strategies`, `events`, `errors`, `adapters`, `data`,
`tracking`, `web`, `testing`, `types` and `compat`. A name is loaded when it is used, with what it needs, such as gRPC.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metisfl_async.adapters import *  # noqa: F403 - for type checkers: what was here before
    from metisfl_async.compat import *  # noqa: F403 - for type checkers: what was here before
    from metisfl_async.controller.controller import Controller
    from metisfl_async.core.config import (
        ClientParams,
        ControllerConfig,
        ModelStoreConfig,
        ServerParams,
        TerminationSignals,
    )
    from metisfl_async.core.errors import ConfigError, MetisError, QuorumLost, TransportError
    from metisfl_async.core.federation.records import BestScore, Failure, LearnerRecord, RoundRecord
    from metisfl_async.core.model import Model
    from metisfl_async.data import *  # noqa: F403 - for type checkers: what was here before
    from metisfl_async.driver.attached import AttachedSession
    from metisfl_async.driver.result import FederationResult
    from metisfl_async.driver.session import DriverSession
    from metisfl_async.environment.environment import FederationEnvironment
    from metisfl_async.errors import *  # noqa: F403 - for type checkers: what was here before
    from metisfl_async.events import *  # noqa: F403 - for type checkers: what was here before
    from metisfl_async.learner.askable import askable
    from metisfl_async.learner.learner import Learner
    from metisfl_async.learner.run import run_learner
    from metisfl_async.relay.relay import Relay
    from metisfl_async.simulation.simulation import Simulation
    from metisfl_async.strategies import *  # noqa: F403 - for type checkers: what was here before

__version__ = "0.1.0"

__all__ = [
    "AttachedSession",
    "BestScore",
    "ClientParams",
    "ConfigError",
    "Controller",
    "ControllerConfig",
    "DriverSession",
    "Failure",
    "FederationEnvironment",
    "FederationResult",
    "Learner",
    "LearnerRecord",
    "MetisError",
    "Model",
    "ModelStoreConfig",
    "QuorumLost",
    "Relay",
    "RoundRecord",
    "ServerParams",
    "Simulation",
    "TerminationSignals",
    "TransportError",
    "askable",
    "run_learner",
]

_HOMES = {
    "AttachedSession": "driver.attached",
    "BestScore": "core.federation.records",
    "ClientParams": "core.config",
    "ConfigError": "core.errors",
    "Controller": "controller.controller",
    "ControllerConfig": "core.config",
    "DriverSession": "driver.session",
    "Failure": "core.federation.records",
    "FederationEnvironment": "environment.environment",
    "FederationResult": "driver.result",
    "Learner": "learner.learner",
    "LearnerRecord": "core.federation.records",
    "MetisError": "core.errors",
    "Model": "core.model",
    "ModelStoreConfig": "core.config",
    "QuorumLost": "core.errors",
    "Relay": "relay.relay",
    "RoundRecord": "core.federation.records",
    "ServerParams": "core.config",
    "Simulation": "simulation.simulation",
    "TerminationSignals": "core.config",
    "TransportError": "core.errors",
    "askable": "learner.askable",
    "run_learner": "learner.run",
}
_GROUPS = ("strategies", "events", "errors", "adapters", "data", "compat")  #: what was here before is there now


def __getattr__(name: str) -> object:
    """Load a name when it is used for the first time."""
    if name in _HOMES:
        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _GROUPS:
        return import_module(f"{__name__}.{name}")
    for group in _GROUPS if not name.startswith("_") else ():
        module = import_module(f"{__name__}.{group}")
        if name in module.__all__:
            text = f"{__name__}.{name} is in {__name__}.{group} now: from {__name__}.{group} import {name}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
