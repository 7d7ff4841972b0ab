"""The files of docs/deploying.md are what their programs read, and their commands are ours."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from pages import ROOT
from ruamel.yaml import YAML

from metisfl_async import FederationEnvironment
from metisfl_async.cli.app import app

FILES = ROOT / "examples" / "deploying"
PAGE = (ROOT / "docs/deploying.md").read_text()
UNITS = sorted(FILES.glob("*.service"))


def check_command(arguments: list[str]) -> None:
    name, *rest = arguments
    app.commands[name].make_context(name, rest)  # raises what the command would


def test_the_page_names_each_file() -> None:
    assert [file.name for file in FILES.iterdir() if file.name not in PAGE] == []


def test_the_federation_is_one() -> None:
    environment = FederationEnvironment.from_yaml(FILES / "federation.yaml")
    assert [entry.learner_id for entry in environment.learners] == ["site-1", "site-2"]
    assert environment.model_store_config.directory == FILES / "models"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_runs_a_command_of_ours(unit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text().replace("\\\n", ""), re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program.endswith("/metisfl-async")
    check_command(arguments)


def test_the_image_runs_a_command_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    (command,) = re.findall(r"^CMD (.*)$", (FILES / "Dockerfile").read_text(), re.MULTILINE)
    check_command(json.loads(command))


@pytest.mark.parametrize("name", ["compose.yaml", "envoy.yaml", "kubernetes.yaml"])
def test_the_others_are_yaml(name: str) -> None:
    assert all(isinstance(part, dict) for part in YAML(typ="safe").load_all(FILES / name))
