"""Keeps what must survive, and tries again while the store fails: nothing is lost meanwhile, and everybody sees it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import ParamSpec, TypeVar

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.errors import ModelLost, StoreError
from metisfl_async.core.federation.events import Event, StoreRecovered, StoreStalled
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.model import Array, Model
from metisfl_async.store.base import NO_ARRAYS, ModelStore

__all__ = ["ANOTHER", "UNREADABLE", "Keeper"]

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, MOST_PAUSE_S = 0.1, 10.0
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)  #: what reading the text of another version may raise
ANOTHER = "was written by another version of metisfl_async, which this one cannot read"
BATCH = 16  #: texts of rounds that are in memory at one time; each may have a megabyte

P = ParamSpec("P")
T = TypeVar("T")


class Keeper:
    """One federation's use of the model store."""

    def __init__(
        self,
        store: ModelStore,
        config: ModelStoreConfig,
        announce: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self._retry_secs = config.retry_secs
        self._announce, self._clock = announce, clock
        self._closed: list[str] = []  # records of closed rounds that wait for the next commit
        self._is_hurried = asyncio.Event()

    def close_round(self, record: RoundRecord) -> None:
        """Take a record that is complete; it is saved with the next commit."""
        self._closed.append(json.dumps(record.to_dict()))

    async def records(self) -> AsyncGenerator[RoundRecord, None]:
        """Give the records of all closed rounds that are kept, in the order in which they were closed."""
        texts, position = await self.do(self._rounds, 0)
        while texts:
            for number, text in enumerate(texts, position - len(texts)):
                if (record := _record_of(number, text)) is not None:
                    yield record
            texts, position = await self.do(self._rounds, position)
        for text in tuple(self._closed):
            yield RoundRecord.from_dict(json.loads(text))

    async def _rounds(self, position: int) -> tuple[list[str], int]:
        """Read some of the texts of rounds; with the position of those after them."""
        read: list[str] = []
        position = max(position, self.store.rounds_dropped)
        async with aclosing(self.store.rounds(position)) as texts:
            async for text in texts:
                read.append(text)
                if len(read) == BATCH:
                    break
        return read, position + len(read)

    async def commit(
        self,
        standing: str,
        *,
        model: Model | None = None,
        arrays: Mapping[str, Array] = NO_ARRAYS,
        best: Model | None = None,
        is_finished: bool = False,
    ) -> None:
        """Save how the federation stands, with a global model and a best one if they are new, in one step."""
        rounds = tuple(self._closed)
        commit = self.store.commit
        await self.do(commit, standing, model=model, arrays=arrays, best=best, rounds=rounds, is_finished=is_finished)
        del self._closed[: len(rounds)]

    def hurry(self) -> None:
        """Try nothing again from now on: the federation is to end."""
        self._is_hurried.set()

    async def do(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Use the store, again and again while it fails.

        Raises
        ------
        StoreError
            If it failed for longer than `ModelStoreConfig.retry_secs`, or somebody is in a hurry.
        ModelLost
            At once, if what was asked for is damaged or gone.
        """
        failing_since: float | None = None
        pause_s, attempts = FIRST_PAUSE_S, 0
        while True:
            try:
                result = await call(*args, **kwargs)
            except ModelLost:
                raise
            except StoreError as error:
                now = self._clock()
                failing_since = now if failing_since is None else failing_since
                failed_s, attempts = now - failing_since, attempts + 1
                if self._is_hurried.is_set() or (self._retry_secs is not None and failed_s >= self._retry_secs):
                    raise
                if attempts & (attempts - 1) == 0:
                    limit = "for ever" if self._retry_secs is None else f"for retry_secs={self._retry_secs:g}"
                    logger.warning("the model store fails, and is tried again %s: %s", limit, error)
                    self._announce(StoreStalled(str(error), failed_s))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._is_hurried.wait()
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
            else:
                if failing_since is not None:
                    seconds = self._clock() - failing_since
                    logger.warning("the model store works again after %.1f s", seconds)
                    self._announce(StoreRecovered(seconds))
                return result


def _record_of(number: int, text: str) -> RoundRecord | None:
    """Read the record of a round; None if it cannot be read, or is damaged, which the store has said."""
    if not text:
        return None
    try:
        return RoundRecord.from_dict(json.loads(text))
    except UNREADABLE as error:
        logger.error("a round's record, number %d, is left out: it %s: %r", number, ANOTHER, error)
        return None
