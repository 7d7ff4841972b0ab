from __future__ import annotations

import asyncio

from metisfl_async.core.federation.events import Event, EventsMissed, LearnerJoined
from metisfl_async.store.event_log import KEPT, MOST, EventLog, count_of


async def read(log: EventLog) -> list[Event]:
    return [event async for event in log.follow()]


async def test_every_watcher_sees_everything_at_its_own_pace() -> None:
    log = EventLog()
    first = asyncio.create_task(read(log))
    log.append(LearnerJoined("a", 1))
    await asyncio.sleep(0)
    second = asyncio.create_task(read(log))
    log.append(LearnerJoined("b", 2))
    log.close()
    assert await first == await second == await read(log) == [LearnerJoined("a", 1), LearnerJoined("b", 2)]


async def test_what_is_there_is_given_together_up_to_a_bound() -> None:
    log = EventLog()
    for number in range(MOST + 5):
        log.append(LearnerJoined(str(number), number))
    first = await log.after(0)
    assert (len(first), first[-1]) == (MOST, LearnerJoined(str(MOST - 1), MOST - 1))
    assert [event.learner for event in await log.after(count_of(first)) if isinstance(event, LearnerJoined)] == [
        str(number) for number in range(MOST, MOST + 5)
    ]
    assert await log.after(3, 1) == [LearnerJoined("3", 3)]
    log.close()
    assert await log.after(MOST + 5) == []


async def test_who_falls_too_far_behind_is_told_how_many_it_missed() -> None:
    log = EventLog()
    for number in range(KEPT + 5):
        log.append(LearnerJoined(str(number), number))
    log.close()
    events = await read(log)
    assert events[:2] == [EventsMissed(5), LearnerJoined("5", 5)]
    assert len(events) == KEPT + 1
    together = await log.after(2)
    assert together[:2] == [EventsMissed(3), LearnerJoined("5", 5)]
    assert (len(together), count_of(together)) == (MOST, MOST + 2)
