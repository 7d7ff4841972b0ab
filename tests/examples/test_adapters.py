"""The scripts of the page about adapters learn, without a word of warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples" / "adapters").glob("with_*.py"))
by_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@by_script
def test_it_learns(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rounds = re.findall(r"^round (\d+): accuracy (0\.\d{3})$", done.stdout, re.MULTILINE)
    assert [number for number, _ in rounds] == [str(n + 1) for n in range(10)]
    assert float(rounds[-1][1]) > 0.8  # by chance: 0.1
    assert list(tmp_path.iterdir()) == []


@by_script
def test_it_is_on_the_page_as_it_stands(script: Path) -> None:
    assert script.read_text().strip() in (ROOT / "docs" / "adapters.md").read_text()


def test_there_is_one_for_each_framework() -> None:
    assert [script.stem for script in SCRIPTS] == ["with_jax", "with_keras", "with_sklearn", "with_torch"]
