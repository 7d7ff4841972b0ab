from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest

from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import (
    Event,
    EventsMissed,
    FederationFinished,
    FederationResumed,
    FederationStarted,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    ModelEvaluated,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    StoreRecovered,
    StoreStalled,
    TaskFailed,
    TaskMoved,
    Told,
    UpdateCounted,
    UpdateFolded,
    UpdateRepeated,
    event_from_dict,
    event_to_dict,
)
from metisfl_async.core.federation.records import Failure, LearnerRecord, RoundRecord

RECORD = RoundRecord(
    2,
    1,
    is_published=True,
    participants=["a"],
    train_metrics={"loss": 0.25},
    learners={
        "a": LearnerRecord(train_state="counted", weight=3.0, train_metadata={"epochs": [1, 2], "site": None}),
        "b": LearnerRecord(train_state="failed", failures=[Failure("train", "ValueError", "no data")]),
    },
)

EVENTS: list[Event] = [
    LearnerJoined("a", 1),
    LearnerLeft("a", 0, "it left"),
    RoundStarted(2, 1, ["a", "b"]),
    RoundStarted(2, 1, ["a"], in_rounds=False),
    FederationStarted("f" * 32, "0" * 16, 1.75e9),
    StoreStalled("models: no room", 0.5),
    StoreRecovered(2.5),
    FirstWeights("of site-2, as made"),
    FederationResumed(None, 0),
    FederationResumed(7, 7),
    TaskMoved(2, "a", "train", "0" * 32, "fetching", 12.5),
    UpdateFolded(2, "a", 3.0, {"loss": 0.25}),
    UpdateRepeated(1, "b", "a"),
    UpdateRepeated(1, "c", None),
    UpdateCounted(2, "a", 3.0, 2),
    TaskFailed(2, "b", "train", "ValueError", "no data"),
    ModelPublished(2, 2),
    LearnerEvaluated(2, "a", {"accuracy": 0.5}),
    LearnerEvaluated(2, "north", {"accuracy": 0.5}, num_learners=3),
    ModelEvaluated(2, {"accuracy": 0.5}),
    RoundFinished(RECORD),
    FederationFinished("federation_rounds=2 reached"),
    FederationFinished("nobody came", True, Ending.QUORUM_LOST),
    EventsMissed(12),
]


def test_the_events_below_are_all_there_are() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_json_as_it_was(event: Event) -> None:
    data = json.loads(json.dumps(event_to_dict(event)))
    assert data["event"] == type(event).__name__
    before = dict(data)
    assert event_from_dict(data) == event
    assert data == before


def test_only_an_event_that_came_to_a_driver_has_its_number_in_json() -> None:
    event = RoundStarted(2, 1, ["a"])
    data = event_to_dict(replace(event, serial=7))
    assert data.pop("serial") == event_from_dict(data | {"serial": 7}).serial == 7
    assert data == event_to_dict(event)
    data["cohort"].append("b")
    assert event.cohort == ["a"]


def test_who_says_nothing_about_rounds_has_them() -> None:
    for event in (RoundStarted(2, 1, ["a"]), RoundFinished(RoundRecord(2, 1))):
        data = event_to_dict(event)
        assert data.get("record", data).pop("in_rounds") is True
        assert event_from_dict(data) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_does_not_change(event: Event) -> None:
    name = next(iter(type(event).__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(event, name, None)


def test_an_event_is_written_once_however_many_are_told() -> None:
    event = LearnerJoined("a", 1)
    told = Told(event)
    assert event_from_dict(json.loads(told.text)) == event
    assert told.text is told.text
