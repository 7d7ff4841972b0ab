"""The options of simulated learners become the arguments of a Simulation."""

from __future__ import annotations

from math import exp
from pathlib import Path

from metisfl_async.cli.simulating import simulation_from


def test_what_is_given_is_passed_on_and_nothing_else() -> None:
    given = {"workers": None, "cached": 3, "keep_state": Path("kept"), "sizes": "math:exp", "speeds": None}
    assert simulation_from(given, is_simulated=True) == {"cached": 3, "keep_state": Path("kept"), "sizes": exp}
    assert simulation_from(dict.fromkeys(given), is_simulated=False) == {}
