"""The model stores, by the names that `ModelStoreConfig` has for them."""

from __future__ import annotations

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.errors import ConfigError
from metisfl_async.store.base import ModelStore
from metisfl_async.store.memory import InMemoryStore

__all__ = ["new_store"]


def new_store(config: ModelStoreConfig) -> ModelStore:
    """Make the store that is asked for; it has yet to be opened."""
    match config.model_store:
        case "Disk":
            from metisfl_async.store.disk import DiskStore

            return DiskStore(config)
        case "Redis":
            try:
                from metisfl_async.store.redis import RedisStore
            except ImportError:
                allowed = "InMemory, Disk, or Redis after: pip install redis"
                raise ConfigError("model_store", config.model_store, allowed) from None
            return RedisStore(config)
        case _:
            return InMemoryStore(config)
