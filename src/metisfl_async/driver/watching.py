"""Runs watchers beside a federation. One that fails, blocks or is slow changes nothing of it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias, TypeVar

from metisfl_async.core.errors import ConfigError
from metisfl_async.driver.result import FederationResult
from metisfl_async.store.event_log import EventLog, EventStream
from metisfl_async.transport.concurrency import is_being_cancelled

__all__ = ["Watched", "Watchers", "checked_watchers", "watched"]

logger = logging.getLogger(__name__)

S = TypeVar("S", bound="Watched")
Watchers: TypeAlias = Sequence[Callable[[S], Awaitable[None]]]
WATCHERS = "trackers, and async functions that take the session"
CLOSED_S = 1.0  #: for a watcher that was cancelled


class Watched(Protocol):
    """What a watcher sees of a session."""

    @property
    def result(self) -> FederationResult | None:
        """What was reached; once the events have ended, for good."""

    def events(self) -> EventStream:
        """Follow the run: all events so far, then each as it happens, until it ends."""


def checked_watchers(watch: Watchers[S]) -> Watchers[S]:
    """Refuse what cannot watch."""
    if isinstance(watch, str) or not isinstance(watch, Sequence):
        raise ConfigError("watch", watch, f"a list of {WATCHERS}")
    for watcher in watch:
        if isinstance(watcher, type) or not _is_async(watcher):
            raise ConfigError("watch", watcher, WATCHERS)
    return watch


@asynccontextmanager
async def watched(session: S, watch: Watchers[S], log: EventLog, patience_s: float | None) -> AsyncIterator[None]:
    """Run watchers beside the block. After it, the log is closed, and they have `patience_s` seconds to end."""
    tasks = [asyncio.create_task(_watch(watcher, session), name=f"watch-{_name(watcher)}") for watcher in watch]
    try:
        yield
    finally:
        log.close()
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=patience_s)
        finally:
            await _give_up([task for task in tasks if not task.done()], patience_s)


async def _watch(watcher: Callable[[S], Awaitable[None]], session: S) -> None:
    try:
        await watcher(session)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if is_being_cancelled():
            raise
        logger.warning("%s failed, and watches no longer; the federation goes on", _name(watcher), exc_info=error)


async def _give_up(late: Sequence[asyncio.Task[None]], patience_s: float | None) -> None:
    """Cancel watchers that have not ended; one that goes on all the same is left."""
    for task in late:
        logger.warning("not waiting any longer for %s, within %s s", task.get_name(), patience_s)
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=CLOSED_S)


def _is_async(watcher: object) -> bool:
    is_async = inspect.iscoroutinefunction
    return callable(watcher) and (is_async(watcher) or is_async(type(watcher).__call__))


def _name(watcher: Callable[[S], Awaitable[None]]) -> str:
    return str(getattr(watcher, "__qualname__", type(watcher).__qualname__))
