"""The scripts of the page about simulations run, do what it says, and are on it as they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "simulation" / "simulate.py"
STRAGGLERS = SCRIPT.with_name("stragglers.py")


def test_it_learns(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rounds = re.findall(r"^round (\d+): 50 sites, mse (\d+\.\d{3})$", done.stdout, re.MULTILINE)
    assert [number for number, _ in rounds] == [str(n + 1) for n in range(20)]
    assert float(rounds[0][1]) > 5.0
    assert float(rounds[-1][1]) < 1.1  # 1.0 is the noise
    assert list(tmp_path.iterdir()) == []


def test_slow_sites_take_the_time_that_the_page_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", STRAGGLERS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    minutes = re.findall(r"^(.*: \d+\.\d minutes), mse \d\.\d\d$", done.stdout, re.MULTILINE)
    assert len(minutes) == 3
    page = (ROOT / "docs" / "simulation.md").read_text()
    assert [line for line in minutes if line not in page] == []


RUN_IT = """
if __name__ == "__main__":
    import asyncio
    from metisfl_async import Controller, DriverSession, TerminationSignals
    signals = TerminationSignals(federation_rounds=3)
    result = asyncio.run(DriverSession(Controller(), simulation, signals).run())
    print([round(record.train_metrics["bias"], 6) for record in result.rounds])
"""


def test_learners_that_remember_do_so_as_the_page_has_them(tmp_path: Path) -> None:
    (snippet,) = [block for block in blocks(ROOT / "docs" / "simulation.md") if "keep_state=" in block]
    script = tmp_path / "biased.py"
    script.write_text(snippet + RUN_IT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(set(ast.literal_eval(done.stdout))) == 3


@pytest.mark.parametrize("script", [SCRIPT, STRAGGLERS])
def test_they_are_on_the_page_as_they_stand(script: Path) -> None:
    assert script.read_text().strip() in (ROOT / "docs" / "simulation.md").read_text()
