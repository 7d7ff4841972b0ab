"""The two regions of the example learn, and are the one federation that they would be without relays."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "relay" / "regions.py"


def test_it_learns_what_the_flat_federation_learns(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *rounds, last = done.stdout.splitlines()
    scores = [re.fullmatch(r"round \d: north, south, mse (\d+\.\d{3})", line) for line in rounds]
    assert len(scores) == 5
    first, *_, best = [float(score[1]) for score in scores if score is not None]
    assert first > 10 * best
    assert last == "the same six without relays: the same model, bit for bit"
