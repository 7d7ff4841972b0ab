"""What a simulated learner takes of the loop's time, which is another matter than when its work is really done."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from metisfl_async.simulation.errand import Done
from metisfl_async.transport.concurrency import end_all

__all__ = ["Place", "Timetable", "clock_held"]

APART_S = 1e-6  #: between results that are due together: what the one leads to comes before the other


def clock_held() -> AbstractContextManager[None]:
    """Have a clock that jumps stand still while other threads are waited for: that of `testing.VirtualLoop`."""
    held: Callable[[], AbstractContextManager[None]] = getattr(asyncio.get_running_loop(), "held", nullcontext)
    return held()


@dataclass(slots=True, order=True)
class Place:
    """When some work is to be over; of those that are over together, the first one comes first."""

    due_at: float
    number: int
    timer: asyncio.TimerHandle | None = field(default=None, compare=False)
    is_due: bool = field(default=False, compare=False)
    may_begin: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    may_end: asyncio.Event = field(default_factory=asyncio.Event, compare=False)


class Timetable:
    """Gives results when they are due by the loop's clock, in that order, however long the work really takes.

    Work that is due first is begun first, and so much of it that the workers have enough to do: so few results wait for
    their time, and what is withdrawn before it is due is hardly ever begun.

    Parameters
    ----------
    ahead : int
        For how many the work is done before they are due.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead, self._numbers = ahead, count()
        self._places: list[Place] = []  # in order

    def enter(self, seconds: float) -> Place:
        """Have a place: from now on, so much time passes until the work is over."""
        loop = asyncio.get_running_loop()
        place = Place(loop.time() + seconds, next(self._numbers))
        place.timer = loop.call_at(place.due_at, self._fall_due, place)
        insort(self._places, place)
        loop.call_soon(self._begin_some)  # once those that come together all have their places
        return place

    async def result(self, place: Place, work: Callable[[], Coroutine[Any, Any, list[Done]]]) -> list[Done]:
        """Do some work, and give what came of it when that is due. The place is left then."""
        await place.may_begin.wait()
        working = asyncio.create_task(work(), name="simulated-work")
        try:
            await place.may_end.wait()
            with clock_held():
                return await working
        except asyncio.CancelledError:
            with clock_held():
                await end_all([working])
            for done in [] if working.cancelled() else working.result():
                done.discard()
            raise
        finally:
            self.leave(place)

    def leave(self, place: Place) -> None:
        """Give up a place, if it is not left yet."""
        index = bisect_left(self._places, place)
        if self._places[index : index + 1] == [place]:
            del self._places[index]
            if place.timer is not None:
                place.timer.cancel()
            self._begin_some()
            asyncio.get_running_loop().call_later(APART_S, self._end_next)

    def _begin_some(self) -> None:
        for place in self._places[: self._ahead]:
            place.may_begin.set()

    def _end_next(self) -> None:
        if self._places and self._places[0].is_due:
            self._places[0].may_end.set()

    def _fall_due(self, place: Place) -> None:
        place.is_due = True
        self._end_next()
