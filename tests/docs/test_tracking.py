"""The page of the trackers names those that there are, and what they call things."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from federations import Adds, session_of
from pages import ROOT, blocks

from metisfl_async import tracking
from metisfl_async.tracking.names import of_learner, of_round

PAGE = ROOT / "docs" / "tracking.md"


def test_the_table_has_every_tracker() -> None:
    named = re.findall(r"^\| `(\w+)\(.*?\)` \|", PAGE.read_text(), re.MULTILINE)
    assert {*named, "Tracker", "RoundTracker"} == set(tracking.__all__)


def test_every_public_tracker_has_a_docstring() -> None:
    assert all(getattr(tracking, name).__doc__ for name in tracking.__all__)


async def test_the_table_of_names_is_whole() -> None:
    record = (await session_of([Adds(1)], rounds=1).run()).rounds[0]
    told = set(re.findall(r"`((?:train|evaluation|central|system)/\w+)`", PAGE.read_text()))
    assert {name for name in of_round(record) if name.startswith("system/")} <= told
    assert {"train/loss", "evaluation/accuracy"} <= told & of_round(record).keys() & of_learner(
        record.learners["learner-0"]
    ).keys()


async def test_the_first_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(blocks(PAGE)[0], PAGE.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, {"session": session_of([Adds(1)])})
    assert (tmp_path / "runs" / "first.jsonl").read_text().count("RoundFinished") == 3
    assert any((tmp_path / "runs" / "first").iterdir())
