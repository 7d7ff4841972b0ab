"""Room for updates on their way in: a bounded number of bytes, handed out in order of asking."""

from __future__ import annotations

from metisfl_async.controller.budget import Budget
from metisfl_async.core.model import Bytes, allocate

__all__ = ["Room", "Staging"]


class Room:
    """A buffer for one update; give it back with `release` or `keep`, once."""

    def __init__(self, staging: Staging, buffer: Bytes) -> None:
        self.staging, self.buffer = staging, buffer

    def release(self) -> None:
        self.staging.take_back(self.buffer)

    def keep(self) -> None:
        """Give the room back, and keep the buffer."""
        self.staging.let_go(self.buffer)


class Staging:
    """Bounds the bytes, and the number, of updates being received and folded at one time.

    Without room, an update's stream is not read, and HTTP/2 flow control slows its sender down. One update is always
    let in, whatever its size. Buffers are used again: a round's updates are all of one size.
    """

    def __init__(self, max_inflight_bytes: int, max_updates: int | None = None) -> None:
        self._budget = Budget(max_inflight_bytes, max_updates)
        self._free: list[Bytes] = []

    @property
    def used_bytes(self) -> int:
        return self._budget.taken

    @property
    def waiting(self) -> int:
        """How many updates wait for room."""
        return self._budget.waiting

    async def reserve(self, size_bytes: int) -> Room:
        """Wait for room for an update of this size."""
        await self._budget.take(size_bytes)
        try:
            return Room(self, self._buffer(size_bytes))
        except MemoryError:
            self._budget.give_back(size_bytes)
            raise

    def take_back(self, buffer: Bytes) -> None:
        self._free.append(buffer)
        self._budget.give_back(len(buffer))

    def let_go(self, buffer: Bytes) -> None:
        self._budget.give_back(len(buffer))

    def _buffer(self, size_bytes: int) -> Bytes:
        if self._free and len(self._free[-1]) != size_bytes:
            self._free.clear()  # another model than before
        return self._free.pop() if self._free else allocate(size_bytes)
