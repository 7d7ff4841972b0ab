"""MetisFL's names for what has another one here."""

from metisfl_async.core.config import EncryptionConfig, TerminationSingals
from metisfl_async.learner.run import app

__all__ = [
    "EncryptionConfig",
    "TerminationSingals",
    "app",
]
