from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any
from unittest.mock import ANY

import pytest
from federations import Adds, session_of

from metisfl_async import ControllerConfig, Failure, LearnerRecord, RoundRecord
from metisfl_async.core.federation.tasks import TaskState
from metisfl_async.core.model import Array
from metisfl_async.events import (
    Event,
    FederationFinished,
    FederationResumed,
    FederationStarted,
    FirstWeights,
    LearnerJoined,
    LearnerLeft,
    RoundFinished,
    RoundStarted,
    StoreRecovered,
    StoreStalled,
    TaskFailed,
    TaskMoved,
    UpdateCounted,
    UpdateFolded,
)
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.web import board as board_module
from metisfl_async.web import figures, lanes
from metisfl_async.web.board import Board
from metisfl_async.web.codes import COUNTED, REPORTED, WORDS, code_of

KINDS = ["learner", "title", "phases", "times", "outcome"]


class FailsInRound(Adds):
    def __init__(self, number: int, round_number: int) -> None:
        super().__init__(number)
        self._left = round_number

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self._left -= 1
        if self._left == 0:
            raise ValueError("<b>no data</b>")
        return super().train(parameters, config)


def take(board: Board, events: Iterable[Event], clock_ms: float = 0.0) -> Board:
    for event in events:
        for _ in board.take(event, clock_ms):
            pass
    return board


def load(records: list[RoundRecord]) -> Board:
    board = Board()
    for _ in board.load(records):
        pass
    return board


def rows(board: Board, name: str) -> list[Any]:
    every = json.loads(board.rows.since(0, len(board.rows)).text)
    return [row[-1] for row in sorted((row for row in every if row[0] == name), key=lambda row: row[1:-1])]


def tasks(board: Board) -> list[dict[str, Any]]:
    return [dict(zip(KINDS, row, strict=True)) for row in rows(board, "task")]


def record(number: int, learners: dict[str, LearnerRecord], **facts: Any) -> RoundRecord:
    made = RoundRecord(number, number - 1, is_published=True, started_ms=1_000.0 * number, duration_ms=900.0, **facts)
    made.learners, made.train_ms = learners, 800.0
    made.close({})
    return made


def counted(number: int, learner: str, ended_ms: float = 400.0, **facts: Any) -> LearnerRecord:
    sent_ms = 1_000.0 * number
    return LearnerRecord(f"{learner}-{number}", "counted", 1.0, sent_ms=sent_ms, ended_ms=sent_ms + ended_ms, **facts)


async def followed(*learners: Adds, rounds: int = 2) -> tuple[Board, Any]:
    session = session_of(list(learners), rounds=rounds)
    running = asyncio.create_task(session.run())
    board = take(Board(), [event async for event in session.events()])
    return board, await running


async def test_the_board_of_events_is_that_of_the_records() -> None:
    board, result = await followed(Adds(1), Adds(2))
    later = load(result.rounds)
    assert rows(board, "round") == rows(later, "round")
    assert [row["number"] for row in rows(board, "round")] == [1, 2]
    assert rows(board, "round")[0]["metrics"]["loss"]["train"] == pytest.approx(2 / 3)
    assert rows(board, "round")[1]["metrics"]["accuracy"]["evaluation"] == pytest.approx(10 / 3)
    done = [task for task in tasks(board) if not task["title"].startswith("get_weights")]
    assert len(done) == 8
    for task in done:
        assert task["times"] == sorted(task["times"])
        assert len(task["times"]) == len(task["phases"]) + 1
        assert task["outcome"] == (COUNTED if task["title"].startswith("train") else REPORTED)
    by_place = lambda task: (task["title"], task["learner"], task["times"][-1])  # noqa: E731
    assert sorted(map(by_place, done)) == sorted(map(by_place, tasks(later)))


async def test_a_failure_is_there_once_with_its_own_text_and_its_learner_goes_on() -> None:
    board, result = await followed(Adds(1), FailsInRound(2, 2), rounds=3)
    for made in (board, load(result.rounds)):
        ((at_ms, title, message),) = rows(made, "failure")
        assert (title, message) == ("learner-1, train in round 2: ValueError", "<b>no data</b>")
        assert at_ms >= 0
        assert [row["failures"] for row in rows(made, "learner")] == [0, 1]
        (failed,) = [task for task in tasks(made) if WORDS[task["outcome"]] == "✕ failed"]
        assert (failed["title"], failed["learner"]) == ("train in round 2", 1)
        assert rows(made, "round")[1]["told"][:3] == ["2", "1 of 2", 1]


def test_a_learner_is_seen_on_its_way_through_a_task() -> None:
    board = take(Board("here"), [FederationStarted("f", "r"), LearnerJoined("a", 1), LearnerJoined("b", 2)])
    take(board, [FirstWeights("given"), RoundStarted(1, 0, ["a", "b"])])
    assert rows(board, "run")[0]["facts"] == [["round 1", "0 of 2"], ["learners", "2 of 2"], ["failures", 0]]
    assert [WORDS[row["state"]] for row in rows(board, "learner")] == ["waiting", "waiting"]
    take(board, [TaskMoved(1, "a", "train", "1", "fetching", 10.0)], 1_010.0)
    take(board, [TaskMoved(1, "a", "train", "1", "working", 30.0)], 1_030.0)
    take(board, [TaskMoved(1, "b", "train", "2", "working", 31.0)], 1_031.0)
    assert [WORDS[row["state"]] for row in rows(board, "learner")] == ["training", "training"]
    take(board, [TaskMoved(1, "a", "train", "1", "uploading", 50.0)], 1_050.0)
    take(board, [UpdateFolded(1, "a", 1.0, {}), TaskFailed(1, "b", "train", "MemoryError", "no room")], 1_060.0)
    a, b = tasks(board)
    assert a == dict(zip(KINDS, [0, "train in round 1", "WDTU", [10, 10, 30, 50, 60], "a"], strict=True))
    assert (b["times"][-1], WORDS[b["outcome"]]) == (60, "✕ failed")
    take(board, [UpdateCounted(1, "a", 1.0, 1), LearnerLeft("b", 1, "it was silent")])
    assert tasks(board)[0]["outcome"] == COUNTED
    assert rows(board, "learner")[1]["away"] == "it was silent"
    assert rows(board, "run")[0]["facts"] == [["round 1", "2 of 2"], ["learners", "1 of 2"], ["failures", 1]]


def test_each_character_has_a_colour_and_failures_come_last_in_the_alphabet() -> None:
    style = (files("metisfl_async.web") / "static" / "page.css").read_text()
    assert [code for code in WORDS if code != "." and f"--{code}:" not in style] == []
    codes = {state: code_of(state.value) for state in TaskState if state.is_final}
    assert set(codes.values()) < set(WORDS)
    assert max(codes, key=lambda state: codes[state]) is TaskState.FAILED
    assert min(codes, key=lambda state: codes[state]) is TaskState.COUNTED


def test_it_says_how_it_stands_with_the_run() -> None:
    board = Board()
    assert rows(board, "run")[0]["phase"] == "waiting"
    take(board, [FederationResumed(3, 3), StoreStalled("models: no room", 2.0)])
    assert rows(board, "run")[0]["reason"] == "the model store has failed for 2 s: models: no room"
    take(board, [StoreRecovered(3.0)])
    assert rows(board, "run")[0]["reason"] == ""
    take(board, [FederationFinished("too few learners", True)])
    run = rows(board, "run")[0]
    assert (run["phase"], run["reason"], run["version"]) == ("failed", "too few learners", 3)


def test_without_rounds_a_failure_is_there_once_whichever_model_has_it_in_its_record() -> None:
    board = Board()
    take(
        board, [TaskMoved(5, "a", "train", "1", "working", 1.0), TaskFailed(5, "a", "train", "MemoryError", "no room")]
    )
    failed = LearnerRecord("1", "failed", failures=[Failure("train", "MemoryError", "no room")])
    take(board, [RoundFinished(record(8, {"a": failed}, in_rounds=False))])
    assert [row[1] for row in rows(board, "failure")] == ["a, train in round 5: MemoryError"]
    take(board, [RoundFinished(record(9, {"a": failed}, in_rounds=False))])  # no event told of that one
    assert [row[1] for row in rows(board, "failure")][1:] == ["a, train in model 9: MemoryError"]


def test_of_many_learners_it_shows_where_most_of_them_are_and_a_cell_for_each() -> None:
    names = [f"site-{number}" for number in range(figures.NAMED + 1)]
    parts = {
        name: counted(1, name, 80.0 * (place % 10), train_metrics={"loss": float(place)})
        for place, name in enumerate(names)
    }
    parts["site-3"] = LearnerRecord("x", "lost", failures=[Failure("train", "lost", "silent")])
    parts["site-4"] = LearnerRecord("y", "late", failures=[Failure("train", "late", "too late")])
    board = take(Board(), [RoundFinished(record(1, parts))])
    loss = rows(board, "round")[0]["metrics"]["loss"]
    assert loss["low"] == pytest.approx(5.0, abs=1.0)
    assert loss["high"] == pytest.approx(28.8, abs=1.0)
    assert rows(board, "column") == [[1, 1_900, ANY]]
    assert rows(board, "column")[0][2][:12] == "012vl5678901"


def test_without_rounds_a_column_is_as_many_updates_as_there_are_learners_and_each_has_its_staleness() -> None:
    board = Board()
    for number in range(1, 8):
        part = counted(number, "ab"[number % 2], staleness=number % 3)
        take(board, [RoundFinished(record(number, {"ab"[number % 2]: part}, in_rounds=False))])
    assert [row[:2] for row in rows(board, "column")] == [[1, 2_900], [3, 4_900], [5, 6_900], [7, 7_900]]
    assert tasks(board)[1]["title"] == "train in round 2, staleness 2"
    assert [row["stale"] for row in rows(board, "round")][:2] == [[[1_400, 1]], [[2_400, 2]]]
    assert rows(board, "run")[0]["unit"] == "model"


async def test_what_the_rule_did_and_who_sent_nothing_new_is_noted() -> None:
    config = ControllerConfig(aggregation_rule="Krum", min_learners=5)
    result = await session_of([Adds(1), Adds(1), Adds(2), Adds(3), Adds(4)], rounds=1, config=config).run()
    (row,) = rows(load(result.rounds), "round")
    said = dict(row["notes"])
    assert ["is_selected: true" in notes for notes in said.values()].count(True) == 1
    assert any("repeats: learner-" in notes for notes in said.values())


def test_numbers_that_are_none_do_not_stop_it() -> None:
    part = counted(1, "a", train_metrics={"loss": float("nan")}, evaluation_metrics={"accuracy": float("inf")})
    (row,) = rows(take(Board(), [RoundFinished(record(1, {"a": part}))]), "round")
    assert row["metrics"] == {"loss": {"train": None}, "accuracy": {"evaluation": ANY}}


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MOST_TASKS", 10)
    monkeypatch.setattr(board_module, "MOST_TASKS", 10)
    monkeypatch.setattr(board_module, "MOST_ROUNDS", 7)
    monkeypatch.setattr(board_module, "MOST_FAILURES", 5)
    monkeypatch.setattr(board_module, "MOST_CELLS", 8)
    made = [
        record(
            number,
            {
                "a": counted(number, "a"),
                "b": LearnerRecord(f"b-{number}", "failed", failures=[Failure("train", "E", "m")]),
            },
        )
        for number in range(1, 21)
    ]
    for board in (load(made), take(Board(), map(RoundFinished, made))):
        assert len(tasks(board)) <= 10
        assert [row["number"] for row in rows(board, "round")] == list(range(14, 21))
        assert len(rows(board, "failure")) == 5
        assert [row[0] for row in rows(board, "column")] == [17, 18, 19, 20]
        assert rows(board, "run")[0]["facts"][-1] == ["failures", 20]


def test_of_rounds_it_remembers_the_latest_and_takes_none_in_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "MOST_ROUNDS", 7)
    made = [record(number, {"a": counted(number, "a")}) for number in range(1, 21)]
    board = take(Board(), (RoundFinished(each) for each in made if each.number != 16))
    for _ in board.load(made):  # as when the run is over
        pass
    assert rows(board, "learner")[0]["asked"] == 20
    assert sorted(row["number"] for row in rows(board, "round")) == [*range(14, 21)]
    assert len(rows(board, "column")) == 7
    assert len(board._known) == len(board._latest) == 7


def test_a_record_of_thousands_is_taken_in_slices() -> None:
    parts = {f"site-{number}": counted(1, str(number), train_metrics={"loss": 1.0}) for number in range(1_000)}
    assert sum(1 for _ in Board().take(RoundFinished(record(1, parts)))) == 10
    assert sum(1 for _ in Board().take(RoundStarted(1, 0, list(parts)))) == 10
