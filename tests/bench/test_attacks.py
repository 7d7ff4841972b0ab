"""The picture of the attacks can be drawn anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

pytestmark = pytest.mark.slow


def test_the_picture_is_drawn_from_real_images_and_the_table_is_that_of_the_page(tmp_path: Path) -> None:
    picture = tmp_path / "robustness.png"
    path = os.pathsep.join([str(ROOT / "examples" / "quickstart_tensorflow"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "bench/attacks.py", "--quick", "--output", str(picture)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = re.findall(r"^\| ([A-Z][^|]*) \|(.*)\|$", done.stdout, re.MULTILINE)
    assert len(rows) == 10
    accuracies = {name: [float(value) for value in values.split("|")] for name, values in rows}
    assert all(0.0 <= accuracy <= 1.0 for values in accuracies.values() for accuracy in values)
    assert accuracies["FedAvg"][1] < accuracies["TrimmedMean(2)"][1]  # times a thousand
    for name in accuracies:
        assert f"| {name} |" in (ROOT / "docs" / "robustness.md").read_text()
