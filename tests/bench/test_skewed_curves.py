"""The picture of the schedulers can be drawn anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

pytestmark = pytest.mark.slow


def test_the_curves_are_drawn_from_real_images_and_the_table_is_that_of_the_page(tmp_path: Path) -> None:
    picture = tmp_path / "skewed.png"
    path = os.pathsep.join([str(ROOT / "examples" / "quickstart_tensorflow"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "bench/skewed.py", "--quick", "--output", str(picture)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^\| (\w+, \w+) \|(.*)\|$", done.stdout, re.MULTILINE)
    assert len(rows) == 4
    for name, values in rows:
        *_, accuracy, lowest, highest = map(float, values.split("|"))
        assert 0.3 < lowest <= accuracy <= highest, name  # by chance it is 0.1
        assert f"| {name} |" in (ROOT / "docs" / "strategies.md").read_text()
