"""The guide's tables have every option with its default."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from pages import ROOT

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals

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
