"""What the pages say can be pasted, runs; what they link to, is there."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from federations import Adds
from pages import PAGES, ROOT, blocks
from redis_server import RedisServer

import metisfl_async
from metisfl_async.cli.app import app

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_federation_in_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    first = blocks(ROOT / "README.md")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", first], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"<FederationResult: 10 rounds, loss=\d.*'federation_rounds=10 reached'> \[array", done.stdout)


async def test_the_test_in_the_guide_passes_as_it_stands() -> None:
    section = (ROOT / "docs/guide.md").read_text().split("## Tests\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "guide.md", "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    await test()


async def test_the_stores_in_the_guide_run_as_they_stand(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs/guide.md").read_text().split("## Where models are kept")[1].split("\n## ")[0]
    on_disk, in_redis = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    for block in (on_disk, in_redis.replace("6379", str(redis_server.port))):
        code = compile(block, "guide.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names = {name: getattr(metisfl_async, name) for name in metisfl_async.__all__}
        await eval(code, names | {"learners": [Adds(1)]})
    said = capsys.readouterr().out
    assert said.endswith("10 [(1,), ()]\n[6, 7, 8, 9, 10]\n")
    assert count(tmp_path, "models/*/global/*.safetensors") == 5
    assert count(tmp_path, "models/*/learner-learner-0-*/*.safetensors") == 5


def count(directory: Path, pattern: str) -> int:
    return len(list(directory.glob(pattern)))


@by_page
def test_code_in_the_pages_is_python(page: Path) -> None:
    for block in blocks(page):
        compile(block, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_commands_in_the_pages_are_ours() -> None:
    command = re.compile(r"^\$ metisfl-async (.*)$", re.MULTILINE)
    lines = [line for page in PAGES for line in command.findall(page.read_text().replace("\\\n", ""))]
    assert len(lines) > 6
    for line in lines:
        name, *arguments = shlex.split(line)
        if name != "--help":
            app.commands[name].make_context(name, arguments)  # raises what the command would
