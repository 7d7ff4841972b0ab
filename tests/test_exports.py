"""The lists of public names and the page that explains them are held together."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import metisfl_async

REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"
GROUPS = ("adapters", "strategies", "events", "errors", "data", "types", "compat")
by_group = pytest.mark.parametrize("group", GROUPS)


def names_of(group: str) -> list[str]:
    names: list[str] = import_module(f"metisfl_async.{group}").__all__
    return names


def rows() -> dict[str, list[str]]:
    """Give the names in the tables of the page, by the group that the heading names; "" is the top level."""
    found: dict[str, list[str]] = {}
    for section in REFERENCE.read_text().split("\n## ")[1:]:
        group = re.match(r"`metisfl_async\.(\w+)`", section)
        found.setdefault(group[1] if group else "", []).extend(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    return found


@by_group
def test_a_group_is_sorted_and_on_the_page(group: str) -> None:
    names = names_of(group)
    assert names == sorted(names)
    assert sorted(rows()[group]) == names


def test_the_top_level_is_sorted_there_and_on_the_page() -> None:
    names = metisfl_async.__all__
    assert names == sorted(names)
    assert all(hasattr(metisfl_async, name) for name in names)
    elsewhere = {name for group in GROUPS for name in names_of(group)}
    assert sorted(rows()[""]) == [name for name in names if name not in elsewhere]
    assert set(names) <= set(dir(metisfl_async))


@by_group
def test_a_name_that_moved_is_still_found_with_a_warning(group: str) -> None:
    if group == "types":
        return  # they were not at the top
    module = import_module(f"metisfl_async.{group}")
    for name in set(names_of(group)) - set(metisfl_async.__all__):
        with pytest.warns(DeprecationWarning, match=rf"from metisfl_async\.{group} import {name}$"):
            assert getattr(metisfl_async, name) is getattr(module, name)


def test_what_is_nowhere_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'FedMagic'"):
        _ = metisfl_async.FedMagic
    assert metisfl_async.strategies.FedAvg is import_module("metisfl_async.strategies").FedAvg


def test_importing_it_loads_no_grpc_and_no_framework() -> None:
    code = (
        "import sys, metisfl_async; from metisfl_async import ConfigError, Learner;"
        "print([name for name in ('grpc', 'rich', 'msgpack', 'redis', 'tensorflow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in metisfl_async.__all__ if not getattr(metisfl_async, name).__doc__] == []


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((REFERENCE.parents[1] / "pyproject.toml").read_text())["project"]
    assert metisfl_async.__version__ == project["version"]
