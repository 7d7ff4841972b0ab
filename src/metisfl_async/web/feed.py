"""Follows a federation for those who watch its page, while there are any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain
from time import perf_counter
from typing import Protocol

from metisfl_async.core.federation.events import Event, EventsMissed
from metisfl_async.store.event_log import EventStream
from metisfl_async.transport.concurrency import end_all
from metisfl_async.web.board import Board
from metisfl_async.web.rows import Changes

__all__ = ["Feed", "Watched"]

logger = logging.getLogger(__name__)

TURN_S = 0.002  #: at work, before others have a turn
AGAIN_S = 0.5  #: between looks for another run of a session that has ended
MOST = 200  #: rows that are sent at a time


class Watched(Protocol):
    """What has a page: a `DriverSession`, one that is attached, or whatever else tells events."""

    def events(self) -> AsyncIterator[Event]:
        """Follow the current or coming run, until it ends.

        Waiting for an event may be cancelled, and begun again, so it is no async generator that has events to come.
        """
        ...


class Feed:
    """Keeps the board of one session up to date. It does so while somebody watches, and costs nothing else."""

    def __init__(self, session: Watched, name: str = "") -> None:
        self.board = Board(name)
        self._session, self._name = session, name
        self._events: AsyncIterator[Event] | None = None
        self._first: Event | None = None  # of the run that is followed
        self._taking: Iterator[None] = iter(())  # what is left of an event
        self._changed = asyncio.Event()
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Follow the session in this block."""
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="page")
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                task, self._task = self._task, None
                await end_all([task])

    async def since(self, board: str, version: int, timeout_s: float) -> tuple[Board, Changes]:
        """Wait for rows that changed after a version of a board; after another board, all rows have.

        The text of the changes is empty if there were none in time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.board.rows.id == board and self.board.rows.version <= version:
                    await self._changed.wait()
        rows = self.board.rows
        return self.board, rows.since(version if rows.id == board else 0, MOST)

    async def rows(self) -> list[str]:
        """Give all rows, as lists of JSON."""
        rows, version, parts = self.board.rows, 0, list[str]()
        while version < rows.version:
            text, version = rows.since(version, MOST)
            parts.append(text)
            await asyncio.sleep(0)
        return parts

    async def _follow(self) -> None:
        try:
            while True:
                await self._follow_run()
                await self._another_run()
        except Exception:  # nobody waits for this task, and the federation goes on
            logger.exception("the page shows no more of %s", self._name or "the federation")

    async def _follow_run(self) -> None:
        """Take in events to the end of a run, or from where we were when the last watcher left."""
        clock, turn_at = asyncio.get_running_loop().time, perf_counter()
        if self._events is None:
            self._events = self._session.events()
        while True:
            await self._take()
            if perf_counter() - turn_at > TURN_S:
                await asyncio.sleep(0)
                turn_at = perf_counter()
            try:
                event = await anext(self._events)
            except StopAsyncIteration:
                break
            self._first = self._first or event
            taking = self.board.take(event, clock() * 1e3)
            self._taking = chain(self._take_missed(), taking) if isinstance(event, EventsMissed) else taking
        self._taking = self._take_missed()  # such as the rounds before a controller was started again
        await self._take()

    async def _take(self) -> None:
        """Take in what is left of an event."""
        for _ in self._taking:
            self._wake()
            await asyncio.sleep(0)
        self._wake()

    def _take_missed(self) -> Iterator[None]:
        """Take what the events have not told from the records that the session has."""
        result = getattr(self._session, "result", None)  # of a session, a `FederationResult`
        return self.board.load([] if result is None else result.rounds)

    async def _another_run(self) -> None:
        """Wait until the session has begun another run, and show that one from then on."""
        while True:
            await asyncio.sleep(AGAIN_S)
            events = self._session.events()
            if isinstance(events, EventStream) and events.has_same_run(self._events):
                continue
            event = await anext(events, None)
            if event is not None and event != self._first:
                break
        self._events = self._first = None
        self.board = Board(self._name)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
