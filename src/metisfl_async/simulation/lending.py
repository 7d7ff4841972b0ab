"""Global models for workers: each is written once, and is there as long as a worker may read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from metisfl_async.core.ids import ModelRef
from metisfl_async.core.model import Model
from metisfl_async.simulation.errand import Moved
from metisfl_async.transport.concurrency import to_the_end

__all__ = ["Lending"]


@dataclass(slots=True)
class _Lent:
    moved: Moved
    readers: int = 0


class Lending:
    """Lends models; the latest one is kept for the next reader."""

    def __init__(self, directory: str | None, writer: Executor) -> None:
        self._directory, self._writer = directory, writer
        self._lent: dict[ModelRef, _Lent] = {}
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def lent(self, ref: ModelRef, model: Model) -> AsyncIterator[Moved]:
        """Lend a model to one worker."""
        async with self._writing:
            if ref not in self._lent:
                await to_the_end(self._write(ref, model))  # a file that nobody knows of would stay
            del model  # the reader may wait for long
            lent = self._lent[ref]
            lent.readers += 1
        self._clear()
        try:
            yield lent.moved
        finally:
            lent.readers -= 1
            self._clear()

    async def _write(self, ref: ModelRef, model: Model) -> None:
        loop = asyncio.get_running_loop()
        self._lent[ref] = _Lent(await loop.run_in_executor(self._writer, Moved.of, model, self._directory))

    def _clear(self) -> None:
        """Remove what nobody reads any more, but for the latest."""
        for ref, lent in list(self._lent.items())[:-1]:
            if lent.readers == 0:
                lent.moved.parcel.discard()
                del self._lent[ref]
