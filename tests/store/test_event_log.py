from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any, get_args

import pytest

from metisfl_async.core.federation import events as events_module
from metisfl_async.core.federation.events import (
    Event,
    EventsMissed,
    LearnerEvaluated,
    LearnerJoined,
    ModelEvaluated,
    RoundFinished,
    RoundStarted,
    UpdateFolded,
    event_to_dict,
)
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.strategies.aggregation.contributors import Contributor, entries_of
from metisfl_async.store.event_log import KEPT, MOST, EventLog, count_of, size_of


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
    assert (len(first), first[-1].event) == (MOST, LearnerJoined(str(MOST - 1), MOST - 1))
    rest = [told.event for told in await log.after(count_of(first))]
    assert rest == [LearnerJoined(str(number), number) for number in range(MOST, MOST + 5)]
    assert [told.event for told in await log.after(3, 1)] == [LearnerJoined("3", 3)]
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
    assert [told.event for told in together[:2]] == [EventsMissed(3), LearnerJoined("5", 5)]
    assert (len(together), count_of(together)) == (MOST, MOST + 2)


async def test_an_event_is_put_into_words_once_however_many_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    worded: list[Event] = []

    def counted(event: Event) -> dict[str, object]:
        worded.append(event)
        return event_to_dict(event)

    monkeypatch.setattr(events_module, "event_to_dict", counted)
    log = EventLog()
    log.append(LearnerJoined("a", 1))
    texts = {told.text for _ in range(5) for told in await log.after(0)}
    assert texts == {'{"event": "LearnerJoined", "learner": "a", "connected": 1}'}
    assert worded == [LearnerJoined("a", 1)]


@pytest.mark.parametrize("kind", [kind for kind in get_args(Event) if kind is not RoundFinished])
def test_every_text_in_an_event_is_in_its_size(kind: type[Event]) -> None:
    """Whatever the kind of event: nothing that a peer wrote is kept unmeasured."""
    plain: dict[str, Any] = {"str": "", "str | None": None, "list[str]": [], "Metrics": {}, "int": 0, "float": 0.0}
    facts = {each.name: plain.get(str(each.type), 0) for each in fields(kind) if each.name != "serial"}
    least = size_of(kind(**facts))
    for each in fields(kind):
        if each.type in ("str", "str | None"):
            assert size_of(kind(**facts | {each.name: 1_000 * "x"})) == least + 1_000, each.name


def test_lists_and_metrics_are_in_an_events_size() -> None:
    metrics = {1_000 * "m": 0.5}
    assert size_of(UpdateFolded(1, "a", 1.0, metrics)) > size_of(UpdateFolded(1, "a", 1.0, {})) + 1_000
    assert size_of(LearnerEvaluated(1, "a", metrics)) > size_of(LearnerEvaluated(1, "a", {})) + 1_000
    assert size_of(ModelEvaluated(1, metrics)) > size_of(ModelEvaluated(1, {})) + 1_000
    assert size_of(RoundFinished(_measured(1_000 * "m"))) > size_of(RoundFinished(_measured("m"))) + 900
    assert size_of(RoundStarted(1, 0, ["a"] * 100)) > size_of(RoundStarted(1, 0, [])) + 1_000


def _measured(name: str) -> RoundRecord:
    below = entries_of({"a": Contributor(1.0, 1, {name: 0.5})})
    return RoundRecord(1, 0, learners={"north": LearnerRecord(evaluation_metadata=below)})
