"""Small learners and the checks that several test modules share."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import psutil

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

PATIENCE_S = 120.0  #: a hang fails after this


class Adds(Learner):
    """Adds a number to every weight; its examples are as many as the number."""

    def __init__(self, number: int, size: int = 1) -> None:
        super().__init__(num_training_examples=number)
        self.number, self.size = number, size
        self.taken_over: list[list[Array]] = []
        self.configs: list[Config] = []

    def get_weights(self) -> list[Array]:
        return [np.zeros(self.size, np.float32), np.array(self.number, np.int64)]

    def set_weights(self, parameters: list[Array]) -> None:
        self.taken_over.append(parameters)

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.configs.append(config)
        parameters[0] += self.number
        return parameters, {"loss": 1.0 / self.number}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"accuracy": float(parameters[0][0])}


class AddsOnLoop(Adds):
    """The same with coroutines; each can be held up by an event."""

    def __init__(self, number: int, size: int = 1) -> None:
        super().__init__(number, size)
        self.may_train = asyncio.Event()
        self.may_train.set()
        self.is_training = asyncio.Event()

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        self.is_training.set()
        await self.may_train.wait()
        return super().train(parameters, config)

    async def evaluate(self, parameters: list[Array], config: Config) -> Metrics:  # type: ignore[override]
        return super().evaluate(parameters, config)


def session_of(
    learners: Sequence[Learner],
    rounds: int = 3,
    *,
    over_grpc: bool = False,
    config: ControllerConfig | None = None,
    worker: str = "thread",
) -> DriverSession:
    controller = Controller(ServerParams() if over_grpc else None, config)
    return DriverSession(
        controller,
        list(learners),
        TerminationSignals(federation_rounds=rounds),
        worker=worker,  # type: ignore[arg-type]
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that other tasks of this loop, or other processes, bring about."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what others do to sockets and files sets no event here
            await asyncio.sleep(0.005)


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Check that the block leaves no task, thread, child process or open port."""
    me = psutil.Process()
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    children, ports = set(me.children(recursive=True)), _ports(me)
    yield
    gc.collect()
    left = asyncio.all_tasks() - tasks
    if ending := {task for task in left if not inspect.iscoroutine(task.get_coro())}:  # gRPC's, compiled by Cython
        await asyncio.wait(ending, timeout=1)
    assert asyncio.all_tasks() == tasks, left
    assert {child for child in me.children(recursive=True) if not _is_pythons(child)} <= children
    # gRPC's own threads close sockets, and end, a moment later, or when what has just become garbage is collected.
    await until(lambda: gc.collect() >= 0 and set(threading.enumerate()) <= threads and _ports(me) <= ports)


def _ports(process: psutil.Process) -> set[tuple[str, int]]:
    return {(c.laddr.ip, c.laddr.port) for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def _is_pythons(child: psutil.Process) -> bool:
    """Whether it is Python's resource tracker, which the first spawned process brings and the interpreter ends."""
    return "multiprocessing.resource_tracker" in " ".join(child.cmdline())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let no file become larger, as on a disk that is full."""
    used, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (used, limit))
        signal.signal(signal.SIGXFSZ, before)
