"""The latest events, for any number of watchers at their own pace."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self, get_args

from metisfl_async.core.federation.events import (
    Event,
    EventsMissed,
    LearnerEvaluated,
    ModelEvaluated,
    RoundFinished,
    RoundStarted,
    Told,
    UpdateFolded,
)
from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.metrics import Metrics

__all__ = ["MOST", "EventLog", "EventStream", "count_of"]

HISTORY_BYTES = 64 * 2**20  #: of events that are kept
KEPT = 10_000  #: events; a watcher that falls further behind is told how many it missed
SMALL_BYTES = 512  #: of an event without lists and texts
MOST = 256  #: events at one time; more would keep the event loop when they are sent


class EventLog:
    """Events are added by one side and followed by others; a slow watcher delays nobody.

    The latest are kept: `KEPT` of them, in about so many bytes; one is kept in any case. Their texts, once somebody was
    told, take about as much again.
    """

    def __init__(self, history_bytes: int = HISTORY_BYTES) -> None:
        self._events: deque[Told] = deque()
        self._sizes: deque[int] = deque()
        self._bytes_left = history_bytes
        self._total = 0
        self.is_closed = False
        self._changed = asyncio.Event()  # set for a moment only, for those who wait

    def append(self, event: Event) -> None:
        self._events.append(Told(event))
        self._sizes.append(size_of(event))
        self._bytes_left -= self._sizes[-1]
        while len(self._events) > KEPT or (self._bytes_left < 0 and len(self._events) > 1):
            self._events.popleft()
            self._bytes_left += self._sizes.popleft()
        self._total += 1
        self._wake()

    def kept(self) -> list[Event]:
        """Give the events that are kept."""
        return [told.event for told in self._events]

    def close(self) -> None:
        """Let the watchers end once they have seen everything."""
        self.is_closed = True
        self._wake()

    def follow(self) -> EventStream:
        """Give all events, those that happened before included, and end when the log is closed."""
        return EventStream(self)

    def from_now(self) -> EventStream:
        """Give the events that happen from now on."""
        return EventStream(self, self._total)

    async def after(self, seen: int, most: int = MOST) -> list[Told]:
        """Wait for events after the first `seen` ones: those that are there, or none if none will come.

        `EventsMissed` stands first for those that are not kept.
        """
        while seen >= self._total:
            if self.is_closed:
                return []
            await self._changed.wait()
        first = self._total - len(self._events)
        missed = [Told(EventsMissed(first - seen))] if seen < first else []
        start = max(seen, first) - self._total  # from the end, near which a watcher as a rule is
        return missed + [self._events[index] for index in range(start, min(start + most - len(missed), 0))]

    def _wake(self) -> None:
        self._changed.set()
        self._changed.clear()


class EventStream:
    """One watcher's place among the events. It can be dropped at any time: unlike a generator's, its end is nothing."""

    def __init__(self, log: EventLog, seen: int = 0) -> None:
        self._log, self._seen = log, seen

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not (events := await self._next(1)):
            raise StopAsyncIteration
        return events[0]

    def has_same_run(self, other: object) -> bool:
        """Say whether another stream follows the same run: where its beginning is not kept, events do not tell."""
        return isinstance(other, EventStream) and other._log is self._log

    async def batch(self) -> list[Event]:
        """Wait for the next events, and give all that are there, 256 at most; none once it is over."""
        return await self._next(MOST)

    async def _next(self, most: int) -> list[Event]:
        told = await self._log.after(self._seen, most)
        self._seen += count_of(told)
        return [each.event for each in told]


def size_of(event: Event) -> int:
    """Say about how many bytes an event takes: names and texts of peers may be long."""
    size = SMALL_BYTES
    for name in _TEXTS[type(event)]:
        if text := getattr(event, name):
            size += len(text)
    return size + _MORE[type(event)](event) if type(event) in _MORE else size


def _size_of_metrics(metrics: Metrics) -> int:
    return sum(64 + len(name) for name in metrics)


def _size_of_part(part: LearnerRecord) -> int:
    texts = sum(len(failure.message) + len(failure.type) for failure in part.failures)
    metadata = sum(len(json.dumps(said)) for said in (part.train_metadata, part.evaluation_metadata) if said)
    metrics = _size_of_metrics(part.train_metrics) + _size_of_metrics(part.evaluation_metrics)
    return 4 * SMALL_BYTES + metrics + texts + metadata


#: Of each kind of event, the fields with a text: to ask each value of each event what it is takes far longer.
_TEXTS = {
    kind: tuple(each.name for each in fields(kind) if each.type in ("str", "str | None")) for kind in get_args(Event)
}
#: What else takes memory, in the few kinds that have more than numbers and texts.
_MORE: dict[type, Callable[[Any], int]] = {
    RoundFinished: lambda event: sum(_size_of_part(part) for part in event.record.learners.values()),
    RoundStarted: lambda event: 64 * len(event.cohort),
    UpdateFolded: lambda event: _size_of_metrics(event.metrics),
    LearnerEvaluated: lambda event: _size_of_metrics(event.metrics),
    ModelEvaluated: lambda event: _size_of_metrics(event.metrics),
}


def count_of(events: list[Told]) -> int:
    """Count events, those that were missed included."""
    return sum(told.event.count if isinstance(told.event, EventsMissed) else 1 for told in events)
