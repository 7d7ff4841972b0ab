"""A directory has the results of one run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from federations import Adds, files_of_at_most, session_of

from metisfl_async import ConfigError
from metisfl_async.cli.saving import Output
from metisfl_async.driver.result import FederationResult
from metisfl_async.errors import StoreError


async def result_of(rounds: int) -> FederationResult:
    return await session_of([Adds(1)], rounds=rounds).run()


def rounds_in(directory: Path) -> int:
    return len(json.loads((directory / "results.json").read_text())["rounds"])


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


EXAMPLE = Path(__file__).parents[2] / "examples" / "environment"
SAVED = ["model.safetensors", "results.json", "results.png"]


async def test_a_directory_with_results_is_refused(tmp_path: Path) -> None:
    Output(tmp_path / "out", replaces=False).save(await result_of(1), has_page=False)
    with pytest.raises(ConfigError) as raised:
        Output(tmp_path / "out", replaces=False)
    assert raised.value.field == "--output"
    assert "a directory without results.json, model.safetensors, results.png" in str(raised.value)
    (tmp_path / "mine.txt").write_text("no result")
    Output(tmp_path, replaces=False)


async def test_nothing_of_the_earlier_run_is_left_and_it_stays_until_there_is_more(tmp_path: Path) -> None:
    for name in ("best.safetensors", "page.html", "mine.txt"):
        (tmp_path / name).write_text("earlier")
    output = Output(tmp_path, replaces=True)
    assert names_in(tmp_path) == ["best.safetensors", "mine.txt", "page.html"]
    (tmp_path / "page.html").unlink()  # no other run's doing
    output.save(await result_of(1), has_page=False)
    assert names_in(tmp_path) == sorted([*SAVED, "mine.txt"])


@pytest.mark.parametrize("replaces", [False, True])
async def test_runs_that_end_in_one_directory_are_kept_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, replaces: bool
) -> None:
    caplog.set_level(logging.WARNING)
    if replaces:
        Output(tmp_path, replaces=False).save(await result_of(4), has_page=False)
    outputs = [Output(tmp_path, replaces=replaces) for _ in range(3)]
    for rounds, output in enumerate(outputs, start=1):
        output.save(await result_of(rounds), has_page=False)
    assert [rounds_in(tmp_path / name) for name in ("", "run-2", "run-3")] == [1, 2, 3]
    assert names_in(tmp_path) == sorted([*SAVED, "run-2", "run-3"])
    assert caplog.text.count("another run has saved") == 2


@pytest.mark.parametrize(
    ("most_bytes", "saved"), [(100, []), (1_000, ["model.safetensors"]), (8_000, ["model.safetensors", "results.json"])]
)
async def test_what_there_is_room_for_is_saved_the_model_first(
    tmp_path: Path, most_bytes: int, saved: list[str]
) -> None:
    result = await result_of(2)
    for name in ("model.safetensors", "results.png"):
        (tmp_path / name).write_text("earlier")
    with files_of_at_most(most_bytes), pytest.raises(StoreError) as raised:
        Output(tmp_path, replaces=True).save(result, has_page=False)
    lost = [name for name in ("model.safetensors", "results.json", "results.png") if name not in saved]
    assert str(raised.value) == f"{tmp_path}: not saved: {', '.join(lost)}: File too large"
    assert names_in(tmp_path) == sorted(saved)


def test_results_are_saved_though_nobody_reads_what_is_said_of_them(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = ["metisfl_async.cli", "run", "federation.yaml", "-m", "learners:DigitsLearner", "--rounds", "1"]
    command = [sys.executable, "-m", *command, "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=EXAMPLE, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert {"model.safetensors", "results.json"} <= {*names_in(tmp_path)}
