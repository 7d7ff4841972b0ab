"""A federation gives what federated averaging, written down as a plain loop, gives."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.slow

ROUNDS = 5
NUM_ARRAYS = 6  # three dense layers, each with weights and biases
IMAGES = "fashion-mnist" if Path("/usr/share/datasets/fashion-mnist").exists() else "digits"

Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Arrays]:
    """What `plain_fedavg.py` printed, and the arrays it saved; 1,400 images do not divide evenly by three."""
    file = tmp_path_factory.mktemp("plain") / "arrays.npz"
    script = Path(__file__).with_name("plain_fedavg.py")
    options = ["--dataset", IMAGES, "--limit", "1400", "--rounds", str(ROUNDS), "--save", str(file)]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(file) as arrays:
        return done.stdout, dict(arrays)


@pytest.mark.tensorflow
@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_global_model_is_the_weighted_mean_of_what_learners_returned(both: tuple[str, Arrays], number: int) -> None:
    _, arrays = both
    sizes = [int(arrays[f"size/{learner}"]) for learner in range(3)]
    assert sizes == [467, 467, 466]
    for index in range(NUM_ARRAYS):
        updates = [arrays[f"returned/{learner}/{number}/{index}"].astype(np.float64) for learner in range(3)]
        mean = sum(size * update for size, update in zip(sizes, updates, strict=True)) / sum(sizes)
        published = arrays[f"global/{number}/{index}"]
        assert published.dtype == np.float32
        assert not np.array_equal(published, arrays[f"global/{number - 1}/{index}"])  # it learnt something
        np.testing.assert_array_max_ulp(np.asarray(mean, np.float32), published, maxulp=2)


@pytest.mark.tensorflow
def test_federation_learns_as_well_as_the_plain_loop(both: tuple[str, Arrays]) -> None:
    output, _ = both
    accuracies = {name: float(value) for name, value in re.findall(r"^(plain loop|federation) ([\d.]+)$", output, re.M)}
    assert accuracies["federation"] == pytest.approx(accuracies["plain loop"], abs=0.01)
    assert accuracies["federation"] > 0.6
