"""The guide's tables have every option with its default."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from pages import ROOT

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals

GUIDE = (ROOT / "docs" / "guide.md").read_text()


def documented() -> dict[str, str]:
    """Each option and its default as the tables write it; a row may have two options and two defaults."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]*) \|", GUIDE, re.MULTILINE)
    found: dict[str, str] = {}
    for names, defaults in rows:
        options = re.findall(r"`(\w+)`", names)
        values = defaults.split(", ") if defaults.count(", ") == len(options) - 1 else [defaults] * len(options)
        found.update(zip(options, values, strict=True))
    return found


@pytest.mark.parametrize("kind", [ControllerConfig, ModelStoreConfig], ids=lambda kind: kind.__name__)
def test_every_option_stands_in_the_guide_with_its_default(kind: Any) -> None:
    table = documented()
    for field in dataclasses.fields(kind):
        assert field.name in table, f"{field.name} is not in docs/guide.md"
        default = field.default_factory() if callable(field.default_factory) else field.default
        written = table[field.name].strip("`")
        if field.name in ("max_model_bytes", "max_inflight_bytes"):
            size, unit = written.split()
            assert int(size) * {"MiB": 2**20, "GiB": 2**30}[unit] == default
        elif field.name not in ("directory", "model_store_hostname", "model_store_port"):
            assert written.strip('"') == (
                f"{default:g}" if isinstance(default, float) and default != 1 else str(default)
            )


def test_every_signal_stands_in_the_guide() -> None:
    for field in dataclasses.fields(TerminationSignals):
        assert f"`{field.name}" in GUIDE, field.name
