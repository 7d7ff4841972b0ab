"""A program for tests: a session under a running loop, as in a notebook, is interrupted again and again.

Usage: interrupted.py TIMES SEED
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from federations import Adds, session_of

MOMENTS_S = [0.0, 0.0001, 0.001, 0.01, 0.1]  #: at most so long after the start, and after each other


class Interrupter(threading.Thread):
    """Sends SIGINT once, twice or three times, each after a random while; later again, if Python swallowed them."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(name="interrupter")
        self.pauses_s = [draw.uniform(0, draw.choice(MOMENTS_S)) for _ in range(draw.randint(1, 3))]
        self.may_begin = self.may_end = False

    def run(self) -> None:
        while not self.may_begin:
            time.sleep(0)
        for pause_s in self.pauses_s:
            time.sleep(pause_s)
            os.kill(os.getpid(), signal.SIGINT)
        for pause in range(10_000):
            if self.may_end:
                break
            time.sleep(0.001)
            if pause % 2000 == 1999:
                os.kill(os.getpid(), signal.SIGINT)


def interrupted_once(draw: random.Random) -> None:
    """Interrupt a session that would run for ever, and see that nothing of it is left when the interrupt arrives."""
    interrupter = Interrupter(draw)
    interrupter.start()
    left: list[str] = []
    try:
        try:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                interrupter.may_begin = True
                session_of([Adds(1), Adds(2)], rounds=1_000_000).run_sync()
            except KeyboardInterrupt:
                left += [thread.name for thread in threading.enumerate() if thread.name.startswith("metisfl")]
        except KeyboardInterrupt:  # a second one came during that
            pass
    except KeyboardInterrupt:
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupter.may_end = True
    interrupter.join()
    assert not left, left


async def main() -> None:
    times, seed = int(sys.argv[1]), int(sys.argv[2])
    draw = random.Random(seed)
    threads = set(threading.enumerate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in range(times):
        interrupted_once(draw)
    assert session_of([Adds(1)], rounds=1).run_sync().model_version == 1
    gc.collect()
    assert set(threading.enumerate()) <= threads, threading.enumerate()


warnings.simplefilter("error")
loop = asyncio.new_event_loop()  # unlike asyncio.run, it leaves Ctrl-C to Python, as a notebook does
loop.run_until_complete(main())
loop.close()
