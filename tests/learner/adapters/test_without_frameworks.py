"""Importing the package needs, and loads, no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CODE = """
import sys
for name in ("jax", "keras", "tensorflow", "torch", "sklearn", "xgboost"):
    sys.modules[name] = None
from metisfl_async import *
from metisfl_async.adapters import *
for make in (
    lambda: SklearnLearner("not a model", (), ()),
    lambda: TorchLearner("not a model", (), (), optimizer=print),
    lambda: JaxLearner("not a model", (), (), train_step=print, eval_step=print),
    lambda: XGBoostLearner({}, (), (), max_trees=1),
):
    try:
        make()
    except ModuleNotFoundError as error:
        print(f"{error.name}: {error}")
"""

SAID = """\
sklearn.linear_model: No module named 'sklearn.linear_model'; 'sklearn' is not a package: pip install scikit-learn
torch: import of torch halted; None in sys.modules: pip install torch
jax: import of jax halted; None in sys.modules: pip install jax
xgboost: import of xgboost halted; None in sys.modules: pip install xgboost
"""


def test_every_name_is_there_without_any_framework() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (SAID, 0), done.stderr
