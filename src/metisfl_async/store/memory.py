"""Models kept in memory, for as long as the controller is open."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping, Sequence

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.errors import ConfigError, StoreError
from metisfl_async.core.model import Array, Model, allocate
from metisfl_async.store.base import BEST, GLOBAL, NO_ARRAYS, Saved, Stored
from metisfl_async.store.record import check_arrays
from metisfl_async.store.worker import Worker

__all__ = ["InMemoryStore"]

INLINE_BYTES = 256 * 1024  #: a smaller model is copied faster than a thread is woken
WHERE = "the model store in memory"


class InMemoryStore:
    """A `ModelStore` that shares read-only models and copies the others.

    Nothing comes back after a crash, so a commit keeps no more than the model and the texts of rounds: the latest of
    those, `history_bytes` in all.
    """

    is_durable = False

    def __init__(self, config: ModelStoreConfig) -> None:
        self._kept: defaultdict[str, deque[Stored]] = defaultdict(lambda: deque(maxlen=config.lineage_length or None))
        self._worker = Worker()
        self._order = asyncio.Lock()  # a small model would overtake a large one
        self._federation_id: str | None = None
        self._has_commits = self._is_finished = False
        self._rounds: deque[str] = deque()
        self._most_bytes, self._rounds_bytes = config.history_bytes, 0
        self.rounds_dropped = 0

    async def open(self) -> None:
        """There is nothing to make ready."""

    async def close(self) -> None:
        self._forget()
        self._worker.close()

    async def unfinished(self) -> str | None:
        return None if self._is_finished else self._federation_id

    async def begin(self, federation_id: str, standing: str) -> None:
        async with self._order:
            if federation_id == self._federation_id and self._has_commits:
                raise StoreError(WHERE, f"it has a federation {federation_id!r} already")
            self._forget()
            self._federation_id = federation_id

    async def resume(self, federation_id: str) -> Saved:
        raise StoreError(WHERE, "it keeps nothing that a federation could go on from")

    async def commit(
        self,
        standing: str,
        *,
        model: Model | None = None,
        arrays: Mapping[str, Array] = NO_ARRAYS,
        best: Model | None = None,
        rounds: Sequence[str] = (),
        is_finished: bool = False,
    ) -> None:
        check_arrays(model, arrays)
        async with self._order:
            self._check()
            if model is not None:
                self._kept[GLOBAL].append(Stored(await self._own(model), 1.0))
            if best is not None:
                self._kept[BEST] = deque([Stored(await self._own(best), 1.0)])
            for text in rounds:
                self._rounds.append(text)
                self._rounds_bytes += sys.getsizeof(text)
            while self._rounds_bytes > self._most_bytes:
                self._rounds_bytes -= sys.getsizeof(self._rounds.popleft())
                self.rounds_dropped += 1
            self._has_commits, self._is_finished = True, is_finished

    async def rounds(self, start: int = 0) -> AsyncGenerator[str, None]:
        number = max(start, self.rounds_dropped)
        while number < self.rounds_dropped + len(self._rounds):
            yield self._rounds[number - self.rounds_dropped]
            number = max(number + 1, self.rounds_dropped)

    async def insert(self, owner: str, model: Model, weight: float = 1.0, task_id: str = "") -> None:
        if owner in (GLOBAL, BEST):
            raise ConfigError("owner", owner, "a learner's id; global models come with a commit")
        async with self._order:
            self._check()
            self._kept[owner].append(Stored(await self._own(model), weight, task_id))

    async def latest(self, owner: str) -> Stored | None:
        kept = self._kept.get(owner)
        return kept[-1] if kept else None

    async def lineage(self, owner: str) -> list[Stored]:
        return list(self._kept.get(owner, ()))

    async def erase(self, owner: str) -> None:
        async with self._order:
            self._kept.pop(owner, None)

    async def _own(self, model: Model) -> Model:
        if model.is_frozen:
            return model
        return await self._worker.do(_copy, model) if len(model.buffer) >= INLINE_BYTES else _copy(model)

    def _check(self) -> None:
        if self._federation_id is None:
            raise StoreError(WHERE, "no federation was begun; nothing can be kept before")

    def _forget(self) -> None:
        self._kept.clear()
        self._rounds.clear()
        self._rounds_bytes = self.rounds_dropped = 0
        self._federation_id, self._has_commits, self._is_finished = None, False, False


def _copy(model: Model) -> Model:
    buffer = allocate(len(model.buffer))
    buffer[:] = model.buffer
    return Model(model.manifest, buffer, model.version).freeze()
