"""The wheel, built from this tree, works where nothing else of it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pages import ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.network]

FEDERATION = """
import asyncio, numpy, metisfl_async as fl

class One(fl.Learner):
    def get_weights(self): return [numpy.zeros(1)]
    def set_weights(self, parameters): pass
    def train(self, parameters, config): return [parameters[0] + 1], {}
    def evaluate(self, parameters, config): return {"accuracy": 1.0}

signals = fl.TerminationSignals(federation_rounds=2)
session = fl.DriverSession(fl.Controller(fl.ServerParams()), [One(num_training_examples=1)], signals)
print(fl.__file__, asyncio.run(session.run()).final_model)
"""

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # this tree's sources

LIGHT = """
import sys

def test_pytest_loads_nothing_of_ours_that_no_test_asks_for():
    assert "metisfl_async_pytest" in sys.modules
    assert "metisfl_async" not in sys.modules
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    (made,) = out.iterdir()
    return made


def test_the_wheel_holds_the_package_its_types_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "metisfl_async/py.typed" in names
    assert "metisfl_async/transport/_proto/metisfl_pb2.py" in names
    assert any(name.endswith("LICENSE") for name in names)
    static = ROOT / "src" / "metisfl_async" / "web" / "static"
    assert {f"metisfl_async/web/static/{file.name}" for file in static.iterdir()} <= set(names)
    assert not [name for name in names if not name.startswith("metisfl_async")]


def test_the_wheel_is_installed_and_runs_a_federation_elsewhere(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "uv", "venv", "--quiet", "there", cwd=tmp_path)
    python = str(tmp_path / "there" / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    run(sys.executable, "-m", "uv", "pip", "install", "--python", python, "-c", constraints, str(wheel), cwd=tmp_path)
    printed = run(python, "-c", FEDERATION, cwd=tmp_path)
    assert str(tmp_path) in printed
    assert "[array([2.])]" in printed


def test_the_page_on_testing_makes_a_project_whose_tests_pass(wheel: Path, tmp_path: Path) -> None:
    page = ROOT / "docs/testing.md"
    (settings,) = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(settings)
    for number, block in enumerate(blocks(page)):
        (tmp_path / f"test_{number}.py").write_text(block)
    run(sys.executable, "-m", "uv", "venv", "--quiet", "there", cwd=tmp_path)
    python = str(tmp_path / "there" / "bin" / "python")
    packages = ["-c", str(ROOT / "constraints.txt"), str(wheel), "pytest", "pytest-asyncio"]
    run(sys.executable, "-m", "uv", "pip", "install", "--python", python, *packages, cwd=tmp_path)
    said = run(python, "-m", "pytest", "-q", "-W", "error", cwd=tmp_path)
    assert re.search(r"^1\d passed in", said, re.MULTILINE), said
    (tmp_path / "test_light.py").write_text(LIGHT)
    run(python, "-m", "pytest", "-q", "test_light.py", cwd=tmp_path)


def test_the_command_is_there_and_says_what_it_needs(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "uv", "venv", "--quiet", "there", cwd=tmp_path)
    python, command = (str(tmp_path / "there" / "bin" / name) for name in ("python", "metisfl-async"))
    install = [sys.executable, "-m", "uv", "pip", "install", "--python", python, "-c", str(ROOT / "constraints.txt")]
    run(*install, str(wheel), cwd=tmp_path)
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: click is not installed: pip install click cryptography ruamel.yaml\n"
    run(*install, f"metisfl-async[cli] @ {wheel.as_uri()}", cwd=tmp_path)
    assert run(command, "--version", cwd=tmp_path).startswith("metisfl-async 0.")
    assert "federation.yaml" in run(command, "run", "--help", cwd=tmp_path)
