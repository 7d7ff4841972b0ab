"""What docs/flower.md and docs/nvflare.md say of this library is so."""

from __future__ import annotations

import importlib
import re

import click
import pytest
from pages import GROUPS, ROOT, members, public

import metisfl_async
from metisfl_async.cli.app import app

PAGES = ("flower", "nvflare")
ROW = r"^\| `([^`]+)` \| (?:`([^`]+)`|not here) \| ?(.*?) ?\|$"


def rows_of(page: str) -> list[tuple[str, str, str]]:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    rows = re.findall(ROW, text, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| `", text, re.MULTILINE)) > 50, "a row without three columns"
    return rows


ROWS = [(page, *row) for page in PAGES for row in rows_of(page)]
HERE = sorted({ours for _, _, ours, _ in ROWS if ours})


@pytest.mark.parametrize("name", HERE)
def test_what_is_said_to_be_here_is(name: str) -> None:
    command, _, rest = name.partition(" ")
    if command == "metisfl-async":
        assert isinstance(app.commands[rest], click.Command)
        return
    owner, _, member = name.partition(".")
    found = public(owner)
    assert not member or member in members(found), name


def test_what_is_said_not_to_be_here_is_not() -> None:
    ours = {name for group in GROUPS for name in importlib.import_module(f"metisfl_async.{group}").__all__}
    absent = {theirs for _, theirs, name, _ in ROWS if not name}
    assert absent
    assert not absent & (ours | set(metisfl_async.__all__))


@pytest.mark.parametrize("page", PAGES)
def test_each_name_has_one_row(page: str) -> None:
    names = [theirs for where, theirs, _, _ in ROWS if where == page]
    assert len(set(names)) == len(names)
