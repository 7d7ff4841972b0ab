from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from federations import Adds, session_of

from metisfl_async import ConfigError
from metisfl_async.cli import pages
from metisfl_async.cli.app import app

EXAMPLE = Path(__file__).parents[2] / "examples" / "environment"
PATIENCE_S = 60.0

LEARNER = """
import numpy, metisfl_async as fl

class One(fl.Learner):
    def __init__(self, **args): super().__init__(num_training_examples=1)
    def get_weights(self): return [numpy.zeros(1)]
    def set_weights(self, parameters): pass
    def train(self, parameters, config): return [parameters[0] + 1], {}
    def evaluate(self, parameters, config): return {"accuracy": 0.5}
"""


@contextmanager
def shown(*arguments: str | Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command, and wait until it has said where its page is."""
    command = [sys.executable, "-W", "error", "-m", "metisfl_async.cli", *map(str, arguments), "--page"]
    with subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            said: list[str] = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"the page is at (http://127\.0\.0\.1:\d+/)", line):
                    yield process, found[1]
                    return
            raise AssertionError("".join(said))
        finally:
            watchdog.cancel()
            process.kill()


def test_a_run_has_a_page_while_it_goes_on_and_leaves_one(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    text = (EXAMPLE / "federation.yaml").read_text()
    file.write_text(text.replace("federation_rounds: 10", "federation_rounds: 100000"))
    (tmp_path / "tiny.py").write_text(LEARNER)
    with shown("run", file, "--module", "tiny:One", "--output", tmp_path, folder=tmp_path) as (process, url):
        with httpx.stream("GET", f"{url}events") as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ") and any(row[0] == "round" for row in json.loads(line[6:])):
                    break
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, output
    assert "page.html" in output
    assert 'id="saved"' in (tmp_path / "page.html").read_text()


def test_a_controller_has_a_page_before_anything_runs(tmp_path: Path, free_port: int) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text((EXAMPLE / "federation.yaml").read_text().replace("port: 50051", f"port: {free_port}"))
    with shown("controller", file, folder=tmp_path) as (process, url):
        assert httpx.get(url).status_code == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 143


async def test_a_page_is_made_of_what_was_saved(tmp_path: Path) -> None:
    result = await session_of([Adds(1)], rounds=1).run()
    result.save(tmp_path / "results.json")
    elsewhere = [str(tmp_path / "results.json"), "-o", str(tmp_path / "x.html")]
    for given, made in (([str(tmp_path)], "page.html"), (elsewhere, "x.html")):
        done = CliRunner().invoke(app, ["page", *given])
        assert done.output == f"{tmp_path / made}\n"
        assert 'id="saved"' in (tmp_path / made).read_text()
    below_a_file = str(tmp_path / "results.json" / "x.html")
    assert isinstance(CliRunner().invoke(app, ["page", str(tmp_path), "-o", below_a_file]).exception, ConfigError)


def test_without_uvicorn_it_says_so_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    error = CliRunner().invoke(app, ["controller", "federation.yaml", "--page"]).exception
    assert isinstance(error, ConfigError)
    assert "pip install uvicorn" in str(error)
