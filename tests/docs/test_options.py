"""The guide's tables have every option with its default."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from pages import ROOT

from metisfl_async import ControllerConfig, DriverSession, ModelStoreConfig, TerminationSignals, run_learner
from metisfl_async.compat import app
from metisfl_async.environment.entries import SessionOptions

GUIDE = (ROOT / "docs" / "guide.md").read_text()


@pytest.mark.parametrize(
    ("kind", "section", "title"),
    [
        (ControllerConfig, "Options", "option"),
        (TerminationSignals, "Options", "signal"),
        (ModelStoreConfig, "Where models are kept", "option"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_option_stands_in_the_guide_with_its_default(kind: Any, section: str, title: str) -> None:
    text = GUIDE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    (rows,) = re.findall(rf"^\| {title} \|.*\n\| --- .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    told = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| \S.* \|$", rows, re.MULTILINE)
    assert len(told) == rows.count("\n")
    found = {name: eval(default) for name, default in told}
    assert found == {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(kind)
    }


@pytest.mark.parametrize("takes_it", [DriverSession, SessionOptions, run_learner, app])
def test_the_limit_of_methods_that_do_not_end_has_one_default(takes_it: Callable[..., object]) -> None:
    (told,) = re.findall(r"^\| `stop_timeout_secs` \| `([^`]+)` \| \S.* \|$", GUIDE, re.MULTILINE)
    assert inspect.signature(takes_it).parameters["stop_timeout_secs"].default == float(told)
