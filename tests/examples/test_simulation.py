"""The script of the page about simulations runs, learns, and is on the page as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "simulation" / "simulate.py"


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


def test_it_is_on_the_page_as_it_stands() -> None:
    assert SCRIPT.read_text().strip() in (ROOT / "docs" / "simulation.md").read_text()
