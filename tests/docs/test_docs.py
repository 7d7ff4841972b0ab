"""What the pages say can be pasted, runs; what they link to, is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_federation_in_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    first = blocks(ROOT / "README.md")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", first], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"<FederationResult: 10 rounds, loss=\d.*'federation_rounds=10 reached'> \[array", done.stdout)


def test_the_test_in_the_guide_is_one_of_ours() -> None:
    assert (ROOT / "tests/docs/test_a_federation.py").read_text().strip() in (ROOT / "docs/guide.md").read_text()


@by_page
def test_code_in_the_pages_is_python(page: Path) -> None:
    for block in blocks(page):
        compile(block, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]*)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
