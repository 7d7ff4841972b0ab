"""Models move by turns: those that move fast one after another, slow ones side by side.

Each model on its way keeps a few megabytes busy, here and in gRPC. Ten at full speed push each other out of the
processor's caches, and together move at half the speed of two.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from metisfl_async.controller.budget import Budget

__all__ = ["Turn", "Turns"]

FAST_BYTES = 8 * 2**20  #: of models that move fast at one time
MOST_BYTES = 4 * 2**20  #: what one of them counts for, at most: two large ones go side by side
PAUSE_S = 0.05  #: a model of which nothing moved for so long is slow


class Turns:
    """Hands out turns in order of asking; at most `most` models move at one time, fast or slow."""

    def __init__(self, most: int | None = None) -> None:
        self.all, self.fast = Budget(most or 2**62), Budget(FAST_BYTES)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self.all.waiting + self.fast.waiting

    def turn(self, size_bytes: int) -> Turn:
        """Make a turn for a model of this size: ``async with turn:`` waits for it."""
        return Turn(self, min(size_bytes, MOST_BYTES))


class Turn:
    """One model's turn; tell it with `moved` of every chunk.

    Whoever pauses is slow, and no longer in the way of the next.
    """

    def __init__(self, turns: Turns, size_bytes: int) -> None:
        self._turns, self._size_bytes = turns, size_bytes
        self._has_moved = True
        self._timer: asyncio.TimerHandle | None = None  # while it counts as fast

    async def __aenter__(self) -> Self:
        await self._turns.all.take(1)
        try:
            await self._turns.fast.take(self._size_bytes)
        except BaseException:
            self._turns.all.give_back(1)
            raise
        self._watch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_next()
        self._turns.all.give_back(1)

    def moved(self) -> None:
        self._has_moved = True

    def _watch(self) -> None:
        if not self._has_moved:
            self._let_next()
            return
        self._has_moved = False
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._watch)

    def _let_next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._turns.fast.give_back(self._size_bytes)
