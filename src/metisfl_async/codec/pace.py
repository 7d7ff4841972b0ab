"""How large the frames of a model are on one connection: all else that is sent there waits behind each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CHUNK_BYTES", "Pace"]

CHUNK_BYTES = 2**20  #: payload of one data frame, at most
FIRST_BYTES = 2**16  #: payload of the first one
LEAST_BYTES = 2**14
SLOW_S, QUICK_S = 2.0, 0.5  #: frames that take longer are made smaller, those that take less time larger


class Pace:
    """Grows to `CHUNK_BYTES` within a few frames, and shrinks where they take seconds.

    Heartbeats, and the answers to a transport's own pings, leave only between two frames; who waits for them would take
    a slow connection for a dead one. And a peer knows that bytes move only when a frame is whole.
    """

    def __init__(self) -> None:
        self.payload_bytes = FIRST_BYTES

    @property
    def is_quick(self) -> bool:
        """Whether the latest frames took little time, as far as is known."""
        return self.payload_bytes == CHUNK_BYTES

    def took(self, sent_bytes: int, seconds: float) -> None:
        """Note how long it took to send so many bytes."""
        if seconds > SLOW_S:
            halvings = math.ceil(math.log2(seconds / SLOW_S))
            self.payload_bytes = max(self.payload_bytes >> halvings, LEAST_BYTES)
        elif seconds < QUICK_S and sent_bytes >= self.payload_bytes:
            self.payload_bytes = min(self.payload_bytes * 2, CHUNK_BYTES)

    @contextmanager
    def sending(self, chunk: bytes) -> Iterator[None]:
        """Around the sending of one chunk."""
        start, sent_bytes = time.perf_counter(), 0
        try:
            yield
            sent_bytes = len(chunk)
        finally:
            self.took(sent_bytes, time.perf_counter() - start)
