"""Many learners at once: what one costs that only waits, how fast all dial in, and how all their updates come in.

The controller has a process of its own; learners dial it over real gRPC on loopback with `run_learner`, up to 500 in a
process. Three tables:

- idle: the controller's memory for each learner that is connected and has beaten, and the share of one core that all
  their heartbeats take;
- dialling in: the time from the word "go" until all have joined, and how late the controller's loop was meanwhile;
- pushing: all learners have an update of 100 thousand float32 ready, and send it at the same moment: the most that
  staging held, and the controller's memory.

All on uvloop. The run fails unless every update counted, no task failed, the new model is the mean of what was sent,
exactly, and staging kept its bound.

A learner is an open file of the controller and one of its own process: the limit is raised as far as that is allowed,
and where it stays too low, there are fewer learners.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import psutil
import uvloop
from lag import tick
from numpy.typing import NDArray
from processes import in_fresh_process, peak_rss_mb
from tables import Columns, Row, Run

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.events import ModelPublished

Weights = Sequence[NDArray[Any]]
PER_PROCESS = 500
OTHER_FILES = 100  #: open in a process beside its connections
PARAMETERS = 100_000
POLL_S = 0.010
TIMEOUT_S = 120  #: for all to start, to dial, or to push
spawn = multiprocessing.get_context("spawn")

IDLE: Columns = {
    "learners": ("idle learners", ",d"),
    "before_mb": ("controller before (MB)", ".0f"),
    "after_mb": ("with all of them (MB)", ".0f"),
    "kb_each": ("each (KB)", ".1f"),
    "heartbeat_secs": ("seconds between heartbeats", "g"),
    "of_a_core": ("all heartbeats (share of a core)", ".1%"),
}
DIAL: Columns = {
    "learners": ("learners that dial at once", ",d"),
    "joined_s": ("all joined (s)", ".2f"),
    "cpu_s": ("controller CPU (s)", ".2f"),
    "lag_p50_ms": ("lag p50 (ms)", ".1f"),
    "lag_p99_ms": ("p99 (ms)", ".1f"),
    "lag_worst_ms": ("worst (ms)", ".1f"),
}
PUSH: Columns = {
    "learners": ("learners that push at once", ",d"),
    "counted": ("counted", ",d"),
    "others": ("refused or lost", "d"),
    "sent_mb": ("sent (MB)", ".0f"),
    "folded_s": ("all folded (s)", ".2f"),
    "inflight_mb": ("most in staging (MB)", ".0f"),
    "max_inflight_mb": ("limit of staging (MB)", ".0f"),
    "before_mb": ("controller before (MB)", ".0f"),
    "pushing_mb": ("peak while they push (MB)", ".0f"),
    "peak_mb": ("peak with fetching (MB)", ".0f"),
    "lag_p99_ms": ("lag p99 (ms)", ".1f"),
    "mean": ("mean", ""),
}


def allowed(learners: int) -> int:
    """Raise the limit of open files as far as is needed; how many of these learners it allows."""
    needed = learners + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return learners
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        print(f"\n{soft} files may be open (ulimit -n): {soft - OTHER_FILES} learners, not {learners}", flush=True)
    return min(learners, soft - OTHER_FILES)


# --- learners --------------------------------------------------------------------------------------------------------


class AddsItsNumber(Learner):
    """Returns the model plus its number, which is that of its examples as well, when all others are ready to."""

    def __init__(self, number: int, in_step: asyncio.Barrier) -> None:
        super().__init__(num_training_examples=number)
        self.number, self.in_step = np.float32(number), in_step

    def get_weights(self) -> Weights:
        raise AssertionError("the driver has the first weights")

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    async def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        parameters[0] += self.number
        await self.in_step.wait()
        await self.in_step.wait()
        return parameters, {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        raise AssertionError("evaluation is off")


def first_weights() -> NDArray[np.float32]:
    return np.arange(PARAMETERS, dtype=np.float32) % 97


def exact_mean(learners: int) -> NDArray[np.float32]:
    """What all return, weighted by their examples. The sums are whole numbers and exact; only the division rounds."""
    numbers = np.arange(1, learners + 1)
    mean = first_weights().astype(np.float64)
    mean *= numbers.sum()
    mean += (numbers**2).sum()
    mean /= numbers.sum()
    return mean.astype(np.float32)


def be_learners(port: int, numbers: list[int], go: Barrier) -> None:
    """Be these learners; `go` is passed when they dial, and when they push."""

    async def hold_back(in_step: asyncio.Barrier) -> None:
        await in_step.wait()  # ours are ready
        await asyncio.to_thread(go.wait)
        await in_step.wait()  # they push

    async def main() -> None:
        params, in_step = ClientParams("127.0.0.1", port), asyncio.Barrier(len(numbers) + 1)
        holding = asyncio.create_task(hold_back(in_step))
        with ThreadPoolExecutor(1) as worker:  # a thread for each would be in the way
            learners = {f"learner-{number}": AddsItsNumber(number, in_step) for number in numbers}
            await asyncio.gather(
                *(run_learner(learner, params, learner_id=name, worker=worker) for name, learner in learners.items())
            )
        await holding

    go.wait()
    uvloop.run(main())


@contextmanager
def crowd(controller: Controller, learners: int) -> Iterator[Barrier]:
    """Start processes of learners, which wait for the word to dial."""
    shares = np.array_split(np.arange(1, learners + 1), -(-learners // PER_PROCESS))
    go = spawn.Barrier(len(shares) + 1, timeout=TIMEOUT_S)
    port = controller.client_params.port
    children = [spawn.Process(target=be_learners, args=(port, share.tolist(), go)) for share in shares]
    for child in children:
        child.start()
    try:
        yield go
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.join()


# --- the controller --------------------------------------------------------------------------------------------------


def rss_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


async def until_joined(controller: Controller, learners: int) -> None:
    members = controller._open.registry

    def are_there() -> bool:
        return len(members) >= learners and all(member.connection is not None for member in members)

    async with asyncio.timeout(TIMEOUT_S):
        while not are_there():  # noqa: ASYNC110 - events for each would be part of what is measured
            await asyncio.sleep(POLL_S)


async def idle(learners: int, heartbeat_secs: float) -> Row:
    """Have them join and beat once; then the memory, and the CPU time of two heartbeats of each."""
    async with Controller(ServerParams(), ControllerConfig(heartbeat_secs=heartbeat_secs)) as controller:
        with crowd(controller, learners) as go:
            before = rss_mb()
            await asyncio.to_thread(go.wait)
            await until_joined(controller, learners)
            async with asyncio.timeout(TIMEOUT_S):
                while min(controller.longest_silences_ms().values()) == 0:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(heartbeat_secs / 10)
            after = rss_mb()
            cpu = time.process_time()
            await asyncio.sleep(2 * heartbeat_secs)
            cpu = time.process_time() - cpu
            assert len(controller.longest_silences_ms()) == learners
    return {
        "learners": learners,
        "before_mb": before,
        "after_mb": after,
        "kb_each": (after - before) / learners * 1e3,
        "heartbeat_secs": heartbeat_secs,
        "of_a_core": cpu / (2 * heartbeat_secs),
    }


async def dial(learners: int) -> Row:
    """Have all dial at one moment."""
    lags_ms: list[float] = []
    async with Controller(ServerParams()) as controller:
        with crowd(controller, learners) as go:
            await asyncio.to_thread(go.wait)
            start, cpu = time.perf_counter(), time.process_time()
            ticking = asyncio.create_task(tick(lags_ms))
            await until_joined(controller, learners)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            ticking.cancel()
    return {
        "learners": learners,
        "joined_s": seconds,
        "cpu_s": cpu,
        "lag_p50_ms": float(np.percentile(lags_ms, 50)),
        "lag_p99_ms": float(np.percentile(lags_ms, 99)),
        "lag_worst_ms": max(lags_ms),
    }


async def push(learners: int, max_inflight_bytes: int) -> Row:
    """Have all push at one moment, after all have fetched the model."""
    lags_ms: list[float] = []
    used_mb: list[float] = []

    async def watch_memory() -> None:
        while True:
            used_mb.append(rss_mb())
            await asyncio.sleep(POLL_S)

    config = ControllerConfig(max_inflight_bytes=max_inflight_bytes, evaluate_every=0)
    async with Controller(ServerParams(), config) as controller:
        with crowd(controller, learners) as go:
            await asyncio.to_thread(go.wait)
            await until_joined(controller, learners)
            before = rss_mb()
            signals = TerminationSignals(federation_rounds=1)
            session = DriverSession(controller, learners, signals, initial_weights=[first_weights()])
            running = asyncio.create_task(session.run())
            await asyncio.to_thread(go.wait)
            start = time.perf_counter()
            ticking, watching = asyncio.create_task(tick(lags_ms)), asyncio.create_task(watch_memory())
            async with asyncio.timeout(TIMEOUT_S):
                async for event in session.events():
                    if isinstance(event, ModelPublished):
                        seconds = time.perf_counter() - start
                        ticking.cancel()
                        watching.cancel()
                result = await running
    record = result.rounds[0]
    failures = [failure for part in record.learners.values() for failure in part.failures]
    assert len(record.participants) == learners, record.summary()
    assert not failures, failures
    assert result.final_model is not None
    np.testing.assert_array_equal(result.final_model[0], exact_mean(learners))
    inflight_bytes = max(record.aggregation_block_memory_kb) * 1024
    assert inflight_bytes <= max_inflight_bytes
    return {
        "learners": learners,
        "counted": len(record.participants),
        "others": len(failures),
        "sent_mb": record.bytes_received / 1e6,
        "folded_s": seconds,
        "inflight_mb": inflight_bytes / 1e6,
        "max_inflight_mb": max_inflight_bytes / 1e6,
        "before_mb": before,
        "pushing_mb": max(used_mb),
        "peak_mb": peak_rss_mb(),
        "lag_p99_ms": float(np.percentile(lags_ms, 99)),
        "mean": "exact",
    }


def measured(measure: Callable[..., Coroutine[Any, Any, Row]], *arguments: float) -> Row:
    """Measure in a process of its own."""
    return in_fresh_process(_run, measure, *arguments)


def _run(measure: Callable[..., Coroutine[Any, Any, Row]], *arguments: float) -> Row:
    return uvloop.run(measure(*arguments))


def main() -> None:
    run = Run(__doc__)
    heartbeat_secs, max_inflight_bytes = ControllerConfig().heartbeat_secs, ControllerConfig().max_inflight_bytes
    idlers, crowd_size = 4_000, 1_000
    if run.is_quick:
        idlers, crowd_size = 200, 100
        heartbeat_secs, max_inflight_bytes = 1.0, max_inflight_bytes // 10
    run.table("idle", IDLE).add(**measured(idle, allowed(idlers), heartbeat_secs))
    run.table("dial", DIAL).add(**measured(dial, allowed(crowd_size)))
    run.table("push", PUSH).add(**measured(push, allowed(crowd_size), max_inflight_bytes))
    run.end()


if __name__ == "__main__":
    main()
