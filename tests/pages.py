"""The documentation's pages, and the Python in them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import metisfl_async

ROOT = Path(__file__).parents[1]
GROUPS = ("adapters", "compat", "data", "errors", "events", "strategies", "testing", "tracking", "types", "web")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def members(owner: Any) -> set[str]:
    """Fields, methods, properties and arguments."""
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    return fields | set(dir(owner)) | inspect.signature(owner).parameters.keys()


def public(name: str) -> Any:
    """Find a public name, at the top or in its group."""
    homes = [metisfl_async, *(importlib.import_module(f"metisfl_async.{group}") for group in GROUPS)]
    found = [getattr(home, name) for home in homes if name in home.__all__]
    assert found, f"{name} is in no public module"
    return found[0]
