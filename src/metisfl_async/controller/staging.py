"""Room for updates on their way in: a bounded number of bytes, handed out in order of asking."""

from __future__ import annotations

import asyncio
from collections import deque

from metisfl_async.core.model import Bytes, allocate

__all__ = ["Room", "Staging"]


class Room:
    """A buffer for one update; give it back with `release`, once."""

    def __init__(self, staging: Staging, buffer: Bytes) -> None:
        self.staging, self.buffer = staging, buffer

    def release(self) -> None:
        self.staging.take_back(self.buffer)


class Staging:
    """Bounds the bytes, and the number, of updates being received and folded at one time.

    Without room, an update's stream is not read, and HTTP/2 flow control slows its sender down. One update is always
    let in, whatever its size. Buffers are used again: a round's updates are all of one size.
    """

    def __init__(self, max_inflight_bytes: int, max_updates: int | None = None) -> None:
        self._max, self._max_updates = max_inflight_bytes, max_updates
        self._used = self._updates = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._free: list[Bytes] = []

    @property
    def used_bytes(self) -> int:
        return self._used

    async def reserve(self, size_bytes: int) -> Room:
        """Wait for room for an update of this size."""
        if self._waiting or not self._fits(size_bytes):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size_bytes, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(size_bytes)  # the turn came, but nobody is there to use it
                elif (size_bytes, turn) in self._waiting:  # else `_admit` has passed us over already
                    self._waiting.remove((size_bytes, turn))
                self._admit()
                raise
        else:
            self._take(size_bytes)
        try:
            return Room(self, self._buffer(size_bytes))
        except MemoryError:
            self._give_back(size_bytes)
            self._admit()
            raise

    def take_back(self, buffer: Bytes) -> None:
        self._give_back(len(buffer))
        self._free.append(buffer)
        self._admit()

    def _take(self, size_bytes: int) -> None:
        self._used += size_bytes
        self._updates += 1

    def _give_back(self, size_bytes: int) -> None:
        self._used -= size_bytes
        self._updates -= 1

    def _fits(self, size_bytes: int) -> bool:
        if self._max_updates is not None and self._updates >= self._max_updates:
            return False
        return self._used == 0 or self._used + size_bytes <= self._max

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size_bytes, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._take(size_bytes)
                turn.set_result(None)

    def _buffer(self, size_bytes: int) -> Bytes:
        if self._free and len(self._free[-1]) != size_bytes:
            self._free.clear()  # another model than before
        return self._free.pop() if self._free else allocate(size_bytes)
