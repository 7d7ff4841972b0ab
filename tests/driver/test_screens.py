"""What a notebook's cell shows while a federation runs."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from federations import Adds, session_of

from metisfl_async import TerminationSignals
from metisfl_async.core.federation.events import RoundFinished, RoundStarted, TaskFailed
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver import progress
from metisfl_async.driver.progress import ProgressDisplay
from metisfl_async.driver.screens import output_of_cell


class Drawn(NamedTuple):
    html: str
    text: str


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """Give what was shown in the cell, and what took its place."""
    found: list[Drawn] = []
    monkeypatch.setattr(progress, "output_of_cell", lambda: lambda *both: found.append(Drawn(*both)))
    return found


async def test_a_cell_has_a_table_of_rounds_with_bars_below(drawn: list[Drawn]) -> None:
    session = session_of([Adds(1), Adds(2)], rounds=2)
    running = asyncio.create_task(session.run())
    with ProgressDisplay(TerminationSignals(federation_rounds=2), 2) as display:
        async for event in session.events():
            display.show(event)
        display.show(TaskFailed(2, "learner-1", "train", "OSError", "disk <full>"))
    await running
    assert "waiting for learners" in drawn[0].html
    html, text = drawn[-1]
    assert html.count("<tr>") == 3  # the head, and two rounds
    assert html.index("</table>") < html.index("disk &lt;full&gt;") < html.index('<progress value="2" max="2">')
    assert "<td>2 of 2</td>" in html
    assert text.index("round 2: 2 of 2 updates") < text.index("disk <full>") < text.index("2/2")


async def test_the_newest_rounds_are_those_that_are_seen_and_drawing_is_rare(drawn: list[Drawn]) -> None:
    with ProgressDisplay(TerminationSignals(federation_rounds=25), 2) as display:
        for number in range(1, 26):
            display.show(RoundStarted(number, number - 1, ["a"]))
            display.show(TaskFailed(number, "<b>", "train", "OSError", "disk full"))
            display.show(RoundFinished(RoundRecord(number, 0, is_published=True)))
    html, _ = drawn[-1]
    assert "the last 20 of 25" in html
    assert "<td>25</td>" in html
    assert "<td>5</td>" not in html
    assert "round 25: train of &lt;b&gt; failed: OSError: disk full" in html
    assert len(drawn) <= 3  # of 75 events: it is drawn ten times a second at most


def test_no_cell_is_found_elsewhere() -> None:
    assert output_of_cell() is None


def test_a_learner_says_what_it_is() -> None:
    assert repr(Adds(3)) == "<Adds: 3 training examples>"
