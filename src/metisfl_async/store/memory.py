"""Models kept in memory, for as long as the controller lives."""

from __future__ import annotations

from collections import deque

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.model import Model

__all__ = ["InMemoryStore"]


class InMemoryStore:
    """Keeps the lineage of the global model: its latest `lineage_length` versions, or all of them with 0."""

    def __init__(self, config: ModelStoreConfig) -> None:
        self._models: deque[Model] = deque(maxlen=config.lineage_length or None)

    async def insert(self, model: Model) -> None:
        """Add a model as the latest; the oldest goes when there is no room."""
        self._models.append(model)

    async def lineage(self) -> list[Model]:
        """Give what is kept, oldest first."""
        return list(self._models)
