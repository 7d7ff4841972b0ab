"""A new project runs, as it was written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metisfl_async import ConfigError
from metisfl_async.cli.new import write_project

DEADLINE = """\
from learners import MyLearner
from metisfl_async import ControllerConfig, TerminationSignals

CONFIG = ControllerConfig(train_params={"epochs": 1, "learning_rate": 0.1})

async def test_in_virtual_time(federation):
    async with federation([MyLearner(1)], TerminationSignals(federation_rounds=2), controller_config=CONFIG) as fed:
        assert (await fed.result()).model_version == 2
"""


def run(directory: Path, *command: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-m", *command], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_it_is_written_and_runs_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    written, told = run(tmp_path, "metisfl_async.cli", "new", "mine")
    names = [Path(line).name for line in written.splitlines()]
    assert names == ["README.md", "federation.yaml", "learners.py", "pytest.ini", "test_federation.py"]
    assert sorted(path.name for path in directory.iterdir()) == names
    (directory / "test_deadline.py").write_text(DEADLINE)
    assert "2 passed" in run(directory, "pytest", "-q", "-p", "no:cacheprovider")[0]
    (command,) = [line.strip() for line in (directory / "README.md").read_text().splitlines() if " run " in line]
    assert told == f"to run it: cd mine && {command}\n"
    run(directory, "metisfl_async.cli", *command.split()[1:])
    rounds = json.loads((directory / "results" / "results.json").read_text())["rounds"]
    assert len(rounds) == 10
    assert set(rounds[0]["learners"]) == {"site-1", "site-2", "site-3"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "learners.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"allowed: a directory without learners\.py"):
        write_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["learners.py"]
