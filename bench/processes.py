"""Work in a process of its own, so that memory and CPU time are its alone; commands that end with all they started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

__all__ = ["in_fresh_process", "peak_rss_mb", "run_command"]

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call it there; a process that dies is an error here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def run_command(command: Sequence[str], timeout_s: float) -> None:
    """Run a command to its end; when it fails, takes too long or is interrupted, nothing that it started goes on."""
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            if code := process.wait(timeout_s):
                raise subprocess.CalledProcessError(code, command)
        finally:
            with suppress(ProcessLookupError):  # as a rule, all have ended
                os.killpg(process.pid, signal.SIGKILL)


def peak_rss_mb() -> float:
    """Say what memory this process has had at most; Linux lets `ru_maxrss` begin with what its parent had."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
