"""What a notebook's cell shows while a federation runs."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest
from federations import Adds, session_of
from rich.console import Console

from metisfl_async import TerminationSignals
from metisfl_async.core.federation.events import RoundFinished, TaskFailed
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver.progress import ProgressDisplay


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for IPython: give what was displayed, and what took its place."""
    found: list[str] = []

    class Output:
        def update(self, html: str) -> None:
            found.append(html)

    def display(html: str, *, display_id: bool) -> Output:
        assert display_id  # so that it can be drawn anew
        found.append(html)
        return Output()

    module: Any = ModuleType("IPython.display")
    module.HTML, module.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    return found


async def test_a_cell_has_a_table_of_rounds_with_bars_below(shown: list[str]) -> None:
    session = session_of([Adds(1), Adds(2)], rounds=2)
    running = asyncio.create_task(session.run())
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2, Console(force_jupyter=True)) as display:
        async for event in session.events():
            display.show(event)
        display.show(TaskFailed(2, "learner-1", "train", "OSError", "disk <full>"))
    await running
    assert "waiting for learners" in shown[0]
    assert any("round 1: training" in html for html in shown)
    last = shown[-1]
    assert last.count("<tr>") == 3  # the head, and two rounds
    assert last.index("</table>") < last.index("disk &lt;full&gt;") < last.index('<progress value="2" max="2">')
    assert "<td>2 of 2</td>" in last


async def test_the_newest_rounds_are_those_that_are_seen(shown: list[str]) -> None:
    with ProgressDisplay(TerminationSignals(federation_rounds=25), 2, Console(force_jupyter=True)) as display:
        for number in range(1, 26):
            display.show(RoundFinished(RoundRecord(number, 0, is_published=True)))
    assert "the last 20 of 25" in shown[-1]
    assert "<td>25</td>" in shown[-1]
    assert "<td>5</td>" not in shown[-1]


def test_a_learner_says_what_it_is() -> None:
    assert repr(Adds(3)) == "<Adds: 3 training examples>"
