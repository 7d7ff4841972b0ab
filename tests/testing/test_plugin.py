"""What pytest shows of a federation when a test fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""
FAILING = """
from metisfl_async import TerminationSignals
from metisfl_async.testing import FakeLearner

SIGNALS = TerminationSignals(federation_rounds=1)

async def test_outside(federation):
    async with federation([FakeLearner(takes=3600)], SIGNALS, seed=3) as fed:
        result = await fed.result()
    assert len(result.rounds) == 2

async def test_inside(federation):
    async with federation([FakeLearner(takes=3600)], SIGNALS) as fed:
        await fed.result()
        assert fed.now == 7

async def test_elsewhere():
    pass
"""


def said(directory: Path, *options: str) -> str:
    (directory / "pytest.ini").write_text(SETTINGS)
    (directory / "test_failing.py").write_text(FAILING)
    command = [sys.executable, "-m", "pytest", "-p", "metisfl_async_pytest", "-p", "no:cacheprovider", *options]
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source}
    ended = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    failures, _ = ended.stdout.split("short test summary info")  # which says all of it again where CI=true
    return failures


@pytest.mark.slow
def test_a_test_that_fails_says_once_what_happened_and_with_which_seed(tmp_path: Path) -> None:
    outside, inside = said(tmp_path).split("test_inside ___")
    assert outside.count("the federation's log, with seed=3:") == 1
    assert "3600.000 s  FederationFinished(" in outside
    assert inside.count("the federation's log, with seed=1990:") == 1


@pytest.mark.slow
def test_a_seed_may_be_given_to_all(tmp_path: Path) -> None:
    assert said(tmp_path, "--federation-seed", "7").count("the federation's log, with seed=7:") == 2
