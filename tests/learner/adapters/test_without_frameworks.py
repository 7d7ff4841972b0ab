"""Importing the package needs, and loads, no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CODE = """
import sys
for name in ("keras", "tensorflow", "torch", "sklearn"):
    sys.modules[name] = None
from metisfl_async import *
try:
    SklearnLearner("not a model", (), ())
except ModuleNotFoundError as error:
    print(error.name)
"""


def test_every_name_is_there_without_any_framework() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("sklearn.linear_model\n", 0), done.stderr
