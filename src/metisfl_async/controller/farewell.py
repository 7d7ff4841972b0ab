"""The end: learners hear that a federation is over, fetch the final model, and leave or stay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.messages import Farewell

__all__ = ["Farewells"]

logger = logging.getLogger(__name__)

AWAY_S = 2.0  #: how long a learner whose connection is broken may take to come back and hear that it is over
RETURN_S = 15.0  #: the same after the controller was started again; a learner tries every 10 s at the least
FAREWELL_S = 30.0  #: how long learners may take to leave, after one of them got further in the final model


class Farewells:
    """Says farewell to everybody, and waits for as long as somebody gets on with leaving, but not for ever.

    Only those are waited for who were there when it began: whoever comes later hears it, and holds up nobody.
    """

    def __init__(self, registry: Registry, timeout_s: float, clock: Callable[[], float]) -> None:
        self.message: Farewell | None = None  #: for whoever connects from now on; None while learners are welcome
        self._registry, self._timeout_s, self._clock = registry, timeout_s, clock
        self._awaited: set[LearnerId] = set()
        # How much of a model each learner was sent at most, since the farewell began, and when one got further.
        self._furthest: dict[LearnerId, int] = {}
        self._moved_at = clock()
        self._changed = asyncio.Event()

    def moved(self, learner: LearnerId, sent_bytes: int) -> None:
        """Take note of how much of a model a learner has been sent."""
        if learner in self._awaited and sent_bytes > self._furthest.get(learner, 0):
            self._furthest[learner], self._moved_at = sent_bytes, self._clock()

    def changed(self) -> None:
        """Take note that a learner came or left, or that its connection ended."""
        self._changed.set()

    def tell(self, farewell: Farewell) -> None:
        """Say to those who are connected that the federation is over, and nothing else."""
        for member in self._registry:
            if member.connection is not None:
                member.connection.send(farewell)

    async def say(self, farewell: Farewell, returning: Callable[[], Collection[LearnerId]] = tuple) -> None:
        """Send everybody away: give them the time to hear it, to fetch the final model, and to leave.

        `returning` says who was there before the controller was started again, and has not come back yet.
        """
        self.message = farewell
        self._awaited = {member.id for member in self._registry} | set(returning())
        self.tell(farewell)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._until_all_have_left(returning)
        except TimeoutError:
            logger.warning("some learners did not leave within farewell_timeout_secs=%g", self._timeout_s)

    async def _until_all_have_left(self, returning: Callable[[], Collection[LearnerId]]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETURN_S):
                while returning():
                    await self._until_changed()
        with suppress(TimeoutError):
            async with asyncio.timeout(AWAY_S):
                await self._until_none(lambda member: member.id in self._awaited)
        self._furthest.clear()
        self._moved_at = self._clock()
        while (patience_s := self._moved_at + FAREWELL_S - self._clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._until_none(lambda member: member.id in self._awaited and member.connection is not None)
                    break
        else:
            logger.warning("some learners did not leave within %g s", FAREWELL_S)

    async def until_none_is_connected(self) -> None:
        """Wait until every connection has ended."""
        await self._until_none(lambda member: member.connection is not None)

    async def _until_none(self, is_awaited: Callable[[Member], bool]) -> None:
        while any(is_awaited(member) for member in self._registry):
            await self._until_changed()

    async def _until_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()
