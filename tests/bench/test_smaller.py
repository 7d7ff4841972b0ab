"""The table of what fewer bytes cost can be made anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from pages import ROOT


def test_the_table_is_made_of_real_images_and_is_that_of_the_page() -> None:
    path = os.pathsep.join([str(ROOT / "examples" / "quickstart_tensorflow"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "bench/smaller.py", "--quick"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^\| (\S+ \| \S+) \|(.*)\|$", done.stdout, re.MULTILINE)
    rows = {codecs: values.split("|") for codecs, values in found}
    assert len(rows) == 10  # with the two lines of the head
    raw_up, raw_down, raw_accuracy = map(float, rows["raw | raw"][:3])
    up, down, accuracy = map(float, rows["int8 | int8"][:3])
    assert (up / raw_up, down / raw_down) == pytest.approx((0.253, 0.253), abs=0.002)
    assert accuracy == pytest.approx(raw_accuracy, abs=0.05)
    for codecs in rows:
        assert f"| {codecs} |" in (ROOT / "docs" / "guide.md").read_text()
