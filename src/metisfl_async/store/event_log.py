"""The latest events, for any number of watchers at their own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

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

    def follow(self) -> AsyncIterator[Event]:
        """Give all events, those that happened before included, and end when the log is closed."""
        return _Follower(self)

    async def after(self, seen: int) -> Event | None:
        """Wait for the event after the first `seen` ones; `EventsMissed` if it is not kept, None if none will come."""
        while True:
            if (missed := self._total - len(self._events) - seen) > 0:
                return EventsMissed(missed)
            if seen < self._total:
                return self._events[seen - self._total]
            if self.is_closed:
                return None
            await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _Follower:
    """One watcher's place in the log. Unlike a generator, it can be dropped at any time: there is nothing to close."""

    def __init__(self, log: EventLog) -> None:
        self._log, self._seen = log, 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._log.after(self._seen)
        if event is None:
            raise StopAsyncIteration
        self._seen += event.count if isinstance(event, EventsMissed) else 1
        return event
