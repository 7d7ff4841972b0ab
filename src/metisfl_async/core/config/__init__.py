"""What users decide, checked once, when it is made."""

from metisfl_async.core.config.controller import ControllerConfig, EncryptionConfig, ParamsHook
from metisfl_async.core.config.endpoints import ClientParams, ServerParams, address_of, named_learners
from metisfl_async.core.config.signals import TerminationSignals, TerminationSingals
from metisfl_async.core.config.store import ModelStoreConfig

__all__ = [
    "ClientParams",
    "ControllerConfig",
    "EncryptionConfig",
    "ModelStoreConfig",
    "ParamsHook",
    "ServerParams",
    "TerminationSignals",
    "TerminationSingals",
    "address_of",
    "named_learners",
]
