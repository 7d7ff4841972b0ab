"""However a program ends while it serves gRPC, its process dies of no signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ends
import pytest
from federations import PATIENCE_S

import metisfl_async

pytestmark = pytest.mark.slow

TIMES = 12  #: without the guard, the second or third mostly crashes
PATHS = [str(Path(module).parent) for module in (ends.__file__, Path(metisfl_async.__file__).parent)]


@pytest.mark.parametrize("loop", ends.LOOPS)
@pytest.mark.parametrize("how", [*ends.MAINS, "loop_is_closed"])
def test_no_end_is_a_segmentation_fault(how: str, loop: str) -> None:
    ended = subprocess.run(
        [sys.executable, ends.__file__, how, loop, str(TIMES)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-5_000:]
