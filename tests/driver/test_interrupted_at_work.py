"""One interrupt ends a program in order, whatever its learner does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from federations import PATIENCE_S

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("interrupted_at_work.py")


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to oneself there")
@pytest.mark.parametrize("worker", ["thread", "process", "executor"])
@pytest.mark.parametrize("how", ["run", "run_sync", "under a loop"])
def test_one_interrupt_ends_a_program_whose_learner_never_ends(how: str, worker: str) -> None:
    arguments = [sys.executable, str(PROGRAM), how, worker, "0.1"]
    program = subprocess.run(arguments, timeout=PATIENCE_S, capture_output=True, text=True, check=False)
    assert program.returncode == 0, (arguments, program.stderr)
    assert program.stdout == "<FederationResult: 0 rounds, 'the session was interrupted'>\n"
