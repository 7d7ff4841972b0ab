"""The example of personal heads: on skewed digits they beat one model for all, at every site or nearly so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_head_of_its_own_beats_one_model_for_all() -> None:
    script = ROOT / "examples" / "personal" / "digits.py"
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(site-\d|mean) +(0\.\d+) +([01]\.\d+) +([01]\.\d+)$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == [*(f"site-{number}" for number in range(1, 6)), "mean"]
    of_all, before, after = (float(score) for score in rows[-1][1:])
    assert before > of_all + 0.03
    assert after >= before - 0.01
    assert done.stdout.splitlines()[0] in (ROOT / "docs" / "adapters.md").read_text()
