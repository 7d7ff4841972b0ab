"""A thread for what would hold up the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from metisfl_async.transport.concurrency import to_the_end

__all__ = ["Worker"]

T = TypeVar("T")
P = ParamSpec("P")


class Worker:
    """Does one job after another, in the order they are given."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "metisfl-store")

    async def do(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job to its end, also when we are cancelled meanwhile: it uses what the caller would give back."""

        async def in_thread() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: job(*args, **kwargs))

        return await to_the_end(in_thread())

    def close(self) -> None:
        """End the thread; may be called twice."""
        self._thread.shutdown()
