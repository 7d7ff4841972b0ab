from __future__ import annotations

import asyncio
import logging
import threading
from io import StringIO

import pytest
from federations import Adds, session_of
from rich.console import Console

from metisfl_async import Controller, ControllerConfig, DriverSession, TerminationSignals
from metisfl_async.core.events import Event, ModelPublished, TaskFailed
from metisfl_async.driver.progress import ProgressDisplay


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


async def _events_without_rounds(signals: TerminationSignals) -> list[Event]:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")
    controller = Controller(controller_config=config)
    session = DriverSession(controller, [Adds(1), Adds(2), Adds(3)], signals)
    running = asyncio.create_task(session.run())
    events = []
    async for event in session.events():
        events.append(event)
        if isinstance(event, ModelPublished) and event.model_version == 200 and signals.global_updates is None:
            await session.stop()
    result = await running
    assert repr(result).startswith("<FederationResult: 20")
    assert " models, accuracy=" in repr(result)
    return events


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
    with ProgressDisplay(signals, 3, console) as display:
        for event in events:
            display.show(event)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "models" in text
    assert "200/" in text
    assert text.count("updates in") < 20  # of two hundred
    assert "round 1: evaluating" not in text
