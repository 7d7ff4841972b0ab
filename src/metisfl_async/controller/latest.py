"""Of calls that do the same for the same party, only the latest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from metisfl_async.core.errors import MetisError

__all__ = ["Latest"]


class Latest:
    """Lets one block run for each key: a newer one ends the older."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Timeout] = {}

    @asynccontextmanager
    async def of(self, key: Hashable, error: MetisError) -> AsyncIterator[None]:
        """Around a block; `error` is raised from it once a newer one begins."""
        if (older := self._running.pop(key, None)) is not None:
            older.reschedule(asyncio.get_running_loop().time())
        mine = self._running[key] = asyncio.timeout(None)
        try:
            async with mine:
                try:
                    yield
                finally:
                    if self._running.get(key) is mine:
                        del self._running[key]
        except TimeoutError:
            if mine.expired():
                raise error from None
            raise
