from __future__ import annotations

import asyncio
import threading
from io import StringIO

from federations import Adds, session_of
from rich.console import Console

from metisfl_async import TerminationSignals
from metisfl_async.core.events import Event, TaskFailed
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
