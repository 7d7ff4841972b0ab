"""A session that blocks its caller's thread, and is interrupted there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind, session_of

from metisfl_async.driver.sync import run_here, run_in_thread

PROGRAM = Path(__file__).with_name("interrupted.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to oneself there")
def test_interrupted_at_any_moment_and_again_under_a_running_loop_nothing_is_left_and_it_runs_again() -> None:
    arguments = [sys.executable, str(PROGRAM), "60", str(os.getpid())]
    program = subprocess.run(arguments, timeout=PATIENCE_S, capture_output=True, text=True, check=False)
    assert program.returncode == 0, (arguments, program.stderr)
    assert "never awaited" not in program.stderr, (arguments, program.stderr)


@pytest.mark.parametrize("run", [run_here, run_in_thread])
def test_it_gives_what_the_coroutine_gives_and_raises_what_it_raises(
    run: Callable[[Coroutine[Any, Any, int]], int],
) -> None:
    async def gives() -> int:
        await asyncio.sleep(0)
        return 1

    async def fails() -> int:
        await asyncio.sleep(0)
        raise LookupError

    assert run(gives()) == 1
    with pytest.raises(LookupError):
        run(fails())


async def test_where_no_thread_can_be_started_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    async with nothing_left_behind():
        with monkeypatch.context() as patched:
            patched.setattr("threading.Thread.start", cannot)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                session_of([Adds(1)], rounds=1).run_sync()
