"""The versions on docs/compatibility.md are those that are allowed and tested with."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from pages import ROOT

from metisfl_async.core.messages import PROTOCOL

PAGE = (ROOT / "docs/compatibility.md").read_text()


def test_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for name, extra in project["optional-dependencies"].items() if name != "dev" for text in extra]
    allowed = {need.name: need.specifier for need in map(Requirement, project["dependencies"] + extras)}
    tested = (ROOT / "constraints.txt").read_text() + (ROOT / "Makefile").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| `([^`]+)` \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 10
    for name, said, version in rows:
        assert allowed[name] == Requirement(f"{name}{said}").specifier, name
        assert re.search(rf"\b{name}=={re.escape(version)}$", tested, re.MULTILINE), name
        assert version in allowed[name]


def test_the_protocol_has_the_version_that_the_page_says() -> None:
    assert f"which is {PROTOCOL}." in PAGE
