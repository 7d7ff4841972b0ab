"""The example of questions before training: what it says of all hospitals is what one place with all data would say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "analytics" / "hospitals.py"
DIGITS = 1e-4  #: as it is printed


def test_statistics_are_those_of_all_data_and_the_model_learns() -> None:
    done = subprocess.run([sys.executable, "-W", "error", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition("accuracy")[0].strip() in (ROOT / "docs" / "guide.md").read_text()
    data = load_breast_cancer()
    names = list(data.feature_names)
    said = re.findall(r"^(.*): mean ([\d.]+), deviation ([\d.]+)\n  quartiles (.*)$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in said] == ["mean radius", "mean area"]
    for name, mean, deviation, quartiles in said:
        column = data.data[:, names.index(name)]
        assert float(mean) == pytest.approx(column.mean(), abs=DIGITS)
        assert float(deviation) == pytest.approx(column.std(), abs=DIGITS)
        exact = np.quantile(column, [0.25, 0.5, 0.75], method="inverted_cdf")
        width = np.ptp(column) / 32**4
        np.testing.assert_allclose([float(value) for value in quartiles.split(", ")], exact, atol=width + DIGITS)
    counts = [int(count) for count in re.findall(r"^  from .* (\d+)$", done.stdout, re.MULTILINE)]
    np.testing.assert_equal(counts, np.histogram(data.data[:, names.index("mean radius")], 8)[0])
    (accuracy,) = re.findall(r"^accuracy after 5 rounds: (.*)$", done.stdout, re.MULTILINE)
    assert float(accuracy) > 0.9  # the commonest answer alone: 0.63
