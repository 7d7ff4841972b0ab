"""A program for tests: a learner interrupts its session and trains for ever; the program ends all the same.

Usage: interrupted_at_work.py run|run_sync|under-a-loop thread|process|executor SECS
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from federations import Adds

from metisfl_async import Controller, DriverSession, TerminationSignals
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult


class Interrupts(Adds):
    """Sends one Ctrl-C to the session's process, and never ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(1)
        self.pid = pid

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        os.kill(self.pid, signal.SIGINT)
        threading.Event().wait()
        raise AssertionError


def main() -> None:
    how, where, secs = sys.argv[1:]
    worker: Any = ThreadPoolExecutor(2) if where == "executor" else where
    session = DriverSession(
        Controller(),
        [Adds(1), Interrupts(os.getpid())],
        TerminationSignals(federation_rounds=1),
        worker=worker,
        stop_timeout_secs=float(secs),
    )

    async def under_a_loop() -> None:
        session.run_sync()

    try:
        match how:
            case "run":
                asyncio.run(session.run())
            case "run_sync":
                session.run_sync()
            case _:
                asyncio.new_event_loop().run_until_complete(under_a_loop())
    except KeyboardInterrupt:
        sys.stdout.write(f"{session.result}\n")
        sys.stdout.flush()
        if where == "executor":
            os._exit(0)  # Python waits for its threads; how they end is for its owner to say


if __name__ == "__main__":
    main()
