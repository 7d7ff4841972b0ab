"""Models kept in memory, for as long as the controller is open."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.model import Model, allocate
from metisfl_async.store.base import Stored
from metisfl_async.store.worker import Worker

__all__ = ["InMemoryStore"]

INLINE_BYTES = 256 * 1024  #: a smaller model is copied faster than a thread is woken


class InMemoryStore:
    """A `ModelStore` that shares read-only models and copies the others."""

    def __init__(self, config: ModelStoreConfig) -> None:
        self._kept: defaultdict[str, deque[Stored]] = defaultdict(lambda: deque(maxlen=config.lineage_length or None))
        self._worker = Worker()
        self._order = asyncio.Lock()  # a small model would overtake a large one

    async def open(self) -> None:
        """There is nothing to make ready."""

    async def close(self) -> None:
        self._kept.clear()
        self._worker.close()

    async def insert(self, owner: str, model: Model, weight: float = 1.0) -> None:
        async with self._order:
            if model.buffer.flags.writeable:
                large = len(model.buffer) >= INLINE_BYTES
                model = await self._worker.do(_copy, model) if large else _copy(model)
            self._kept[owner].append(Stored(model, weight))

    async def latest(self, owner: str) -> Stored | None:
        kept = self._kept.get(owner)
        return kept[-1] if kept else None

    async def lineage(self, owner: str) -> list[Stored]:
        return list(self._kept.get(owner, ()))

    async def erase(self, owner: str) -> None:
        async with self._order:
            self._kept.pop(owner, None)


def _copy(model: Model) -> Model:
    buffer = allocate(len(model.buffer))
    buffer[:] = model.buffer
    return Model(model.manifest, buffer, model.version).freeze()
