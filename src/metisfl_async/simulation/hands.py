"""Who does the errands of a simulation: processes of our own, or an executor of the user's."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from metisfl_async.simulation.errand import Done, Errand
from metisfl_async.simulation.maker import MakeLearner
from metisfl_async.simulation.process import Process, WorkerDied
from metisfl_async.simulation.work import work
from metisfl_async.transport.concurrency import to_the_end

__all__ = ["Borrowed", "Hands", "Processes"]

AT_ONCE = 64  #: errands that an executor of the user's has at one time


class Hands(Protocol):
    """Does errands. Use it as an async context manager."""

    directory: str | None  #: where workers and we exchange files; None: they may be on other machines
    owns_processes: bool  #: whether nothing else runs in its processes
    ahead: int  #: how many errands keep it busy

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def do(self, errand: Errand, begin: Callable[[], object]) -> Done:
        """Have an errand done, once there is a worker; that it begins is told.

        Raises
        ------
        WorkerDied
            If the worker died. An executor of the user's may raise anything else.
        """
        ...


class Processes:
    """Spawned processes. Each has an errand of its own, so that one that dies takes nobody else's along."""

    owns_processes = True

    def __init__(self, make_learner: MakeLearner, count: int, cached: int = 0) -> None:
        self.directory: str | None = None
        self.ahead = 2 * count
        self._processes = [Process(make_learner, cached) for _ in range(count)]
        self._free: asyncio.Queue[Process] = asyncio.Queue()  # as many as there are
        self._threads = ThreadPoolExecutor(count, "metisfl-simulation")  # each waits for a process

    async def __aenter__(self) -> Self:
        self.directory = tempfile.mkdtemp(prefix="metisfl-simulation-")
        for process in self._processes:
            self._free.put_nowait(process)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()
        self._threads.shutdown()
        assert self.directory is not None
        shutil.rmtree(self.directory, ignore_errors=True)

    async def do(self, errand: Errand, begin: Callable[[], object]) -> Done:
        process = await self._free.get()
        try:
            begin()
            doing = self._threads.submit(process.do, errand)
            try:
                return await asyncio.wrap_future(doing)
            except asyncio.CancelledError:
                process.end()
                try:
                    await to_the_end(_unwanted(doing))
                finally:
                    process.close()  # it may have been ended after its errand, or before it
                raise
        finally:
            self._free.put_nowait(process)


class Borrowed:
    """An executor of the user's. It is not closed, and what has begun in it goes on to its end."""

    owns_processes = False
    ahead = AT_ONCE

    def __init__(self, make_learner: MakeLearner, executor: Executor) -> None:
        self.directory: str | None = None
        self._make_learner, self._executor = make_learner, executor
        self._room = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: it is the user's."""

    async def do(self, errand: Errand, begin: Callable[[], object]) -> Done:
        async with self._room:
            begin()
            if errand.keeps_state:
                errand = await asyncio.to_thread(errand.carried)
            try:
                return await asyncio.wrap_future(self._executor.submit(work, self._make_learner, errand))
            except BrokenExecutor as error:
                raise WorkerDied from error


async def _unwanted(doing: Future[Done]) -> None:
    """Wait for the end of an errand, and remove what came of it."""
    with suppress(WorkerDied, asyncio.CancelledError):
        (await asyncio.wrap_future(doing)).discard()
