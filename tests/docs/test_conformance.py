"""The page of the kit has each of its cases, in order."""

from __future__ import annotations

import re

from pages import ROOT

from metisfl_async.conformance import CASES


def test_the_table_has_every_case_and_what_a_learner_must_do() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text().split("## The cases")[1]
    rows = re.findall(r"^\| (?!case|---)(.+?) \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(case.name, case.must) for case in CASES]
