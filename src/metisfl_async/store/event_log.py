"""The latest events, for any number of watchers at their own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from metisfl_async.core.events import Event, EventsMissed

__all__ = ["EventLog"]

KEPT = 10_000  #: events; a watcher that falls further behind is told how many it missed


class EventLog:
    """Events are added by one side and followed by others; a slow watcher delays nobody."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._total = 0
        self.is_closed = False
        self._changed = asyncio.Event()

    def append(self, event: Event) -> None:
        self._events.append(event)
        self._total += 1
        self._wake()

    def close(self) -> None:
        """Let the watchers end once they have seen everything."""
        self.is_closed = True
        self._wake()

    async def follow(self) -> AsyncIterator[Event]:
        """Give all events, those that happened before included, and end when the log is closed."""
        seen = 0
        while True:
            missed = self._total - len(self._events) - seen
            if missed > 0:
                seen += missed
                yield EventsMissed(missed)
            elif seen < self._total:
                event = self._events[seen - self._total]
                seen += 1
                yield event
            elif self.is_closed:
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
