"""The example with trees grows a good forest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "trees" / "breast_cancer.py"


def test_three_hospitals_grow_one_forest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^round \d+: accuracy 0\.9\d\d$", done.stdout, re.MULTILINE)) == 15
    found = re.search(r"^45 trees, area under the curve (0\.\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    assert float(found[1]) > 0.97
    assert list(tmp_path.iterdir()) == []
