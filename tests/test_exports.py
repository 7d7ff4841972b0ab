"""The list of public names and the page that explains them are held together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import metisfl_async

REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"


def test_public_names_are_sorted_and_there() -> None:
    names = metisfl_async.__all__
    assert names == sorted(names)
    assert all(hasattr(metisfl_async, name) for name in names)


def test_the_reference_has_each_public_name_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", REFERENCE.read_text(), re.MULTILINE)
    assert sorted(rows) == metisfl_async.__all__


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in metisfl_async.__all__ if not getattr(metisfl_async, name).__doc__] == []


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((REFERENCE.parents[1] / "pyproject.toml").read_text())["project"]
    assert metisfl_async.__version__ == project["version"]
