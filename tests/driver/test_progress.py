from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from io import StringIO

import pytest
from federations import Adds, session_of, until
from rich.console import Console

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, QuorumLost, TerminationSignals
from metisfl_async.core.federation.events import (
    Event,
    LearnerJoined,
    LearnerLeft,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateFolded,
)
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.model import Array
from metisfl_async.driver.progress import ProgressDisplay
from metisfl_async.learner.learner import Config, TrainResult


async def _events() -> list[Event]:
    session = session_of([Adds(1), Adds(2)], rounds=2)
    running = asyncio.create_task(session.run())
    events = [event async for event in session.events()]
    await running
    return events


async def test_a_terminal_shows_rounds_failures_and_where_it_stands() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    threads = threading.active_count()
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2, console) as display:
        for event in await _events():
            display.show(event)
        display.show(TaskFailed(2, "learner-1", "train", "OSError", "disk [full]"))
        assert threading.active_count() <= threads  # drawn when something happens, not by a thread
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "waiting for learners" in text
    assert "round 1: training" in text
    assert "round 2: evaluating" in text
    assert "round 2: 2 of 2 updates in" in text
    assert "round 2: train of learner-1 failed: OSError: disk [full]" in text
    assert "2/2" in text


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_no_control_character_of_a_peer_is_shown(is_terminal: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    evil = "\x1b]0;mine\x07[/red]\nINFO forged"
    console = Console(file=StringIO(), force_terminal=is_terminal, width=200, color_system=None)
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2, console) as display:
        display.show(RoundStarted(1, 0, ["a"]))
        display.show(TaskFailed(1, "a", "train", evil, evil))
        display.show(UpdateFolded(1, "a", 1.0, {evil: 0.5}))
        display.show(RoundFinished(RoundRecord(1, 0, True, train_metrics={evil: 0.5})))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue() + caplog.text
    assert r"failed: \x1b]0;mine\x07[/red]\nINFO forged: \x1b]0;mine" in text
    assert "\x07" not in text
    assert "\x1b]" not in text
    assert "\nINFO forged" not in text


async def _events_without_rounds(
    signals: TerminationSignals, learners: Sequence[Learner] = (), num_models: int = 200
) -> list[Event]:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")
    learners = learners or [Adds(1), Adds(2), Adds(3)]
    session = DriverSession(Controller(controller_config=config), learners, signals)
    running = asyncio.create_task(session.run())
    events = []
    async for event in session.events():
        events.append(event)
        if isinstance(event, ModelPublished) and event.number == num_models and signals.global_updates is None:
            await session.stop()
    result = await running
    assert repr(result).startswith(f"<FederationResult: {num_models // 10}")
    assert not any(record.in_rounds for record in result.rounds)
    assert " models, accuracy=" in repr(result)
    return events


def _show(events: Iterable[Event], signals: TerminationSignals, console: Console) -> None:
    with ProgressDisplay(signals, 3, console) as display:
        for event in events:
            display.show(event)


def _text(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "signals", [TerminationSignals(global_updates=200), TerminationSignals(execution_cutoff_time_mins=10)]
)
async def test_without_rounds_it_counts_models_and_stays_quiet(
    signals: TerminationSignals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events = await _events_without_rounds(signals)
    assert len([record for record in caplog.records if record.levelno == logging.INFO]) < 30
    console = Console(file=StringIO(), force_terminal=True, width=120)
    _show(events, signals, console)
    text = _text(console)
    assert "models" in text
    assert re.search(r"20\d/", text)
    assert re.search(r"3 learners connected  accuracy \d", text)
    assert 1 <= text.count("updates in") < 20  # of two hundred
    assert "round 1: evaluating" not in text


async def test_one_learner_alone_without_rounds_makes_models() -> None:
    signals = TerminationSignals(execution_cutoff_time_mins=10)
    console = Console(file=StringIO(), force_terminal=True, width=120)
    _show(await _events_without_rounds(signals, [Adds(1)], 50), signals, console)  # which looks at the result as well
    assert "models" in _text(console)
    assert "model 1: 1 of 1 updates in" in _text(console)
    assert "round 1" not in _text(console)


async def test_rounds_that_end_before_all_have_reported_are_rounds() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    signals = TerminationSignals(federation_rounds=1)
    events: list[Event] = [RoundStarted(1, 0, ["a", "b"]), ModelPublished(1, 1), RoundFinished(RoundRecord(1, 0, True))]
    _show(events, signals, console)
    assert "round 1: evaluating" in _text(console)
    assert "models" not in _text(console)


@pytest.mark.slow
async def test_a_thousand_models_of_ten_learners_are_drawn_now_and_then() -> None:
    signals = TerminationSignals(global_updates=1000)
    events = await _events_without_rounds(signals, [Adds(number) for number in range(1, 11)], 1000)
    for event in events:
        if isinstance(event, RoundFinished):
            event.record.started_ms = event.record.duration_ms = 0.0  # so fast that one line is enough
    console = Console(file=StringIO(), force_terminal=True, width=120)
    with ProgressDisplay(signals, 10, console) as display:
        for event in events[:-1]:
            display.show(event)
        assert "1000/1000" not in _text(console)  # nothing was drawn since the first of them
        await until(lambda: "1000/1000" in _text(console))  # without another event
        display.show(events[-1])
    assert _text(console).count("1000/1000") < 10
    assert _text(console).count("\n") < 50


async def test_the_first_and_the_last_model_have_a_line_however_short_the_run_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    signals = TerminationSignals(global_updates=200)
    events = await _events_without_rounds(signals)
    caplog.clear()
    caplog.set_level(logging.INFO)
    _show(events, signals, Console(file=StringIO()))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) < 20
    assert re.match(r"model \d: 1 of 1 updates in ", lines[0])
    last = [event.record for event in events if isinstance(event, RoundFinished)][-1]  # evaluations overtake each other
    assert lines[-1] == f"model {last.number}: {last.summary()}"


async def test_what_the_program_prints_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    before = sys.stdout, sys.stderr
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2, console) as display:
        display.show(RoundStarted(1, 0, ["a"]))
        assert (sys.stdout, sys.stderr) == before
        print("mine")  # noqa: T201
    assert capsys.readouterr().out == "mine\n"


@pytest.mark.parametrize("width", [80, 90, 100, 120])
async def test_no_number_is_cut(width: int) -> None:
    metrics = {"accuracy": 0.912345, "loss": 0.254321, "f1_score": 0.871234}
    console = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    with ProgressDisplay(TerminationSignals(federation_rounds=100), 10, console) as display:
        display.show(RoundStarted(12, 0, ["a", "b"]))
        display.show(UpdateFolded(12, "a", 1.0, metrics))
        display._screen.draw()
        display.show(RoundFinished(RoundRecord(12, 0, True, train_metrics=metrics, evaluation_metrics=metrics)))
    whole = {f"{value:.4g}" for value in metrics.values()} | {"0.00"}  # a time
    assert "\u2026" not in _text(console)
    found = re.findall(r"\d\.\d+", _text(console))
    assert set(found) <= whole
    assert "0.9123" in found


async def test_learners_that_fail_alike_are_told_of_as_one() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 50, console) as display:
        for number in (1, 2):
            display.show(RoundStarted(number, 0, ["a"]))
            for learner in range(50):
                display.show(TaskFailed(number, f"site-{learner}", "train", "ValueError", "no data"))
            display.show(TaskFailed(number, "site-50", "train", "OSError", "disk full"))
            display.show(RoundFinished(RoundRecord(number, 0)))
    lines = [line.split("\x1b[2K")[-1] for line in _text(console).splitlines() if "failed" in line]
    assert lines == [
        f"round {number}: train of {who} failed: {why}"
        for number in (1, 2)
        for who, why in (
            ("site-0", "ValueError: no data"),
            ("site-50", "OSError: disk full"),
            ("49 more learners", "ValueError: no data"),
        )
    ]


async def test_of_learners_that_fail_alike_one_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(QuorumLost, match=r"and 2 more: OSError: disk full"):
        await session_of([Fails(1) for _ in range(5)], config=ControllerConfig(max_failed_rounds=1)).run()
    logged = [record for record in caplog.records if record.name.endswith("failing")]
    assert [record.exc_info is not None for record in logged] == [True, False, False]
    assert "; 4 such failures so far: OSError: disk full" in logged[-1].getMessage()


async def test_without_a_terminal_what_is_logged_has_no_second_line(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(QuorumLost):
        await session_of([Fails(1)], config=ControllerConfig(max_failed_rounds=1)).run(progress=True)
    told = [record.name.rpartition(".")[2] for record in caplog.records if "fail" in record.getMessage()]
    assert told.count("failing") == 1
    assert "progress" not in told
    console = Console(file=StringIO(), width=120)
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2, console, logged=["a"]) as display:
        for learner, kind in (("a", "OSError"), ("a", "expired"), ("b", "OSError")):
            display.show(TaskFailed(1, learner, "train", kind, "why"))
    told = [record.getMessage() for record in caplog.records if record.name.endswith("progress")]
    assert told == ["round 1: train of a failed: expired: why", "round 1: train of b failed: OSError: why"]


@pytest.mark.parametrize("joins", [True, False])
async def test_without_a_terminal_it_tells_how_many_of_the_awaited_learners_are_there(
    joins: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    console = Console(file=StringIO(), width=120)
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 5, console, joins=joins) as display:
        for connected in (1, 2, 3, 4):
            display.show(LearnerJoined(f"site-{connected}", connected))
        display.show(LearnerLeft("site-4", 3, "it left"))
        display.show(LearnerLeft("site-3", 2, "it left"))
        display.show(RoundStarted(1, 0, ["site-1"]))
        display.show(LearnerJoined("site-9", 8))  # of the learners that were awaited, none is
    told = ["site-1 joined; 1", "site-2 joined; 2", "site-4 joined; 4", "site-3 left; 2"] if joins else []
    assert [record.getMessage() for record in caplog.records] == [f"{each} of 5 learners are there" for each in told]


async def test_a_terminal_counts_the_learners_that_are_there() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120)
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2, console, joins=True) as display:
        display.show(LearnerJoined("site-1", 1))
    assert "1 learner connected" in _text(console)
    assert "are there" not in _text(console)


class Fails(Adds):
    """Never gets anywhere."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        raise OSError("disk full")


async def test_a_learner_that_fails_with_every_model_is_told_of_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    signals = TerminationSignals(global_updates=200)
    caplog.set_level(logging.INFO, "metisfl_async.controller")
    events = await _events_without_rounds(signals, [Adds(1), Adds(2), Fails(3)])
    failed = [event for event in events if isinstance(event, TaskFailed) and event.type == "OSError"]
    assert len(failed) > 50
    logged = [record for record in caplog.records if "OSError" in record.getMessage() and "controller" in record.name]
    console = Console(file=StringIO(), force_terminal=True, width=120)
    _show(events, signals, console)
    shown = [line for line in _text(console).splitlines() if "OSError" in line]
    assert 6 <= len(logged) <= 9
    assert 6 <= len(shown) <= 9
    assert "train of learner-2 failed: OSError: disk full" in shown[0]
    assert "train of learner-2 failed, 2 times: OSError: disk full" in shown[1]
    assert "cancelled" not in _text(console)
