"""The threads that do a controller's arithmetic: one thing at a time, a long one in several slices."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK
from metisfl_async.core.strategies.aggregation.spreading import spreading
from metisfl_async.transport.concurrency import call, to_the_end

__all__ = ["INLINE_BYTES", "Threads"]

INLINE_BYTES = 256 * 1024  #: a smaller model is worked on faster than a thread is woken
MOST = 4  #: additions wait for memory, not for the processor: more threads than this gain nothing
T = TypeVar("T")


class Threads:
    """A worker, and a helper for each other core, up to `MOST` in all. `close` waits for what is under way."""

    def __init__(self, cores: int | None = None) -> None:
        self._slices = min(cores or _cores(), MOST)
        self._worker = ThreadPoolExecutor(1, "metisfl-aggregator")
        self._helpers = ThreadPoolExecutor(max(self._slices - 1, 1), "metisfl-helper")  # threads start when needed

    async def work(self, size_bytes: int, function: Callable[..., T], *args: object) -> T:
        """Do arithmetic over a model of this size without blocking the loop."""
        if size_bytes < INLINE_BYTES:
            return call(function, *args)

        def with_helpers() -> T:
            with spreading(self.spread):
                return call(function, *args)

        async def in_worker() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._worker, with_helpers)

        return await to_the_end(in_worker())  # the thread uses what we would give back

    def spread(self, work: Callable[[slice], None], count: int) -> None:
        """Do some work on so many elements, a slice in each thread; returns when all of it is done."""
        blocks = -(-count // BLOCK)
        slices = min(self._slices, blocks // 4)  # less than four blocks are done before a thread is awake
        if slices < 2:
            work(slice(0, count))
            return
        bounds = [*(blocks * number // slices * BLOCK for number in range(slices)), count]
        mine, *parts = (slice(*ends) for ends in pairwise(bounds))
        others: list[Future[None]] = []
        try:
            others.extend(self._helpers.submit(work, part) for part in parts)
            work(mine)
        finally:
            wait(others)
        for other in others:
            other.result()

    def close(self) -> None:
        self._worker.shutdown()
        self._helpers.shutdown()


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
