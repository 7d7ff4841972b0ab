"""What attacks cost the others: how long a model takes to be made, with an attacker and without, one after the other.

The controller, two honest learners and their driver are a process of their own, the attacker is another; without
rounds, so that nobody waits for the attacker's task. An attack begins anew 50 ms after it is over. A block of the loop
is what its thread computes between two ticks; other processes have no part in it.

Usage, in the tests' directory: python -m attackers.measure [PART_OF_A_NAME ...]
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeAlias

import grpc.aio
import psutil
from attackers.catalogue import ROWS, Row
from attackers.ground import DRIVER, HONEST, Insider, Outside, tokens_in
from federations import Adds
from puppet import dialled, weights

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.access import Identity
from metisfl_async.core.errors import MetisError
from metisfl_async.events import ModelPublished

__all__ = ["attacked"]

Secrets: TypeAlias = Mapping[Identity, str]

TURNS = 5
TURN_S = 0.6
PAUSE_S = 0.05
PATIENCE_S = 30.0  #: with one attack
TICK_S = 0.002
MIB = 2**20


class Mark(NamedTuple):
    """What was seen since the mark before."""

    models: int
    took_s: float
    cpu_s: float
    longest_block_s: float
    rss: int  #: bytes, at most


@dataclass
class Watch:
    """Sees how late the loop is, how much memory there is, and how many models are made."""

    models: int = 0
    longest_block_s: float = 0.0
    rss: int = 0

    async def tick(self) -> None:
        process, ticks = psutil.Process(), 0
        while True:
            asleep_at = time.thread_time()
            await asyncio.sleep(TICK_S)
            self.longest_block_s = max(self.longest_block_s, time.thread_time() - asleep_at)
            ticks += 1
            if ticks % 10 == 0:
                self.rss = max(self.rss, process.memory_info().rss)


def controller(pipe: Connection, file: Path, secrets: Secrets, row: Row) -> None:
    """Run a federation until the pipe says so; each word on it is a mark."""
    logging.disable()
    asyncio.run(_federation(pipe, file, secrets, row))


async def _federation(pipe: Connection, file: Path, secrets: Secrets, row: Row) -> None:
    patience = {key: value for key, value in row.config.items() if key != "scheduler" and "semi" not in key}
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec", **patience)
    async with Controller(ServerParams(tokens=file), config) as opened:
        outside = Outside(opened.client_params, secrets, row.size, AsyncExitStack())
        learners = [
            asyncio.create_task(run_learner(Adds(number + 1, row.size), outside.shown(name)))
            for number, name in enumerate(HONEST)
        ]
        signals = TerminationSignals(global_updates=10**9)
        session = DriverSession(outside.shown(DRIVER.name), 2, signals, initial_weights=weights(0, row.size))
        running = asyncio.create_task(session.run())
        watch = Watch()

        async def count() -> None:
            async for event in session.events():
                watch.models += isinstance(event, ModelPublished)

        async with asyncio.TaskGroup() as group:
            busy = [group.create_task(watch.tick()), group.create_task(count())]
            pipe.send(opened.client_params.port)
            begun_at, cpu_s = time.perf_counter(), time.process_time()
            while await asyncio.to_thread(pipe.recv):
                now, cpu_now_s = time.perf_counter(), time.process_time()
                took_s, used_s = now - begun_at, cpu_now_s - cpu_s
                pipe.send(Mark(watch.models, took_s, used_s, watch.longest_block_s, watch.rss))
                watch.models, watch.longest_block_s, watch.rss = 0, 0.0, 0
                begun_at, cpu_s = now, cpu_now_s
            for task in busy:
                task.cancel()
        await session.stop()
        await running
        await asyncio.gather(*learners)


async def _marked(pipe: Connection) -> Mark:
    pipe.send(True)
    mark: Mark = await asyncio.to_thread(pipe.recv)
    return mark


async def attacked(row: Row, params: ClientParams, secrets: Secrets, seconds: float) -> int:
    """Attack again and again for so long; how often."""
    times, until = 0, time.monotonic() + seconds
    async with AsyncExitStack() as left_open:
        while time.monotonic() < until:
            async with AsyncExitStack() as joined:
                outside = Outside(params, secrets, row.size, left_open)
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        for name in row.insiders:
                            connected = await joined.enter_async_context(dialled(outside.shown(name), name))
                            insider = Insider(connected.link, connected.token, connected.stream)
                            outside.insiders.append(insider)
                            insider.offer = await insider.task()
                        await row.attack(outside)
                        for insider in outside.insiders:
                            await insider.leave()
                except (MetisError, TimeoutError, grpc.aio.AioRpcError) as error:  # it was sent away
                    await asyncio.sleep(0.1)
                    if not times:
                        sys.stderr.write(f"  {type(error).__name__}: {error}"[:300].partition("\n")[0] + "\n")
            times += 1
            await asyncio.sleep(PAUSE_S)
    return times


async def measured(name: str, row: Row, file: Path, secrets: Secrets) -> str:
    """Measure an attack; a line about it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=controller, args=(theirs, file, secrets, row))
    process.start()
    try:
        params = ClientParams("127.0.0.1", await asyncio.to_thread(ours.recv))
        quiet, loud, times = list[Mark](), list[Mark](), 0
        await asyncio.sleep(TURN_S)
        await _marked(ours)
        for _ in range(TURNS):
            await asyncio.sleep(TURN_S)
            quiet.append(await _marked(ours))
            times += await attacked(row, params, secrets, TURN_S)
            loud.append(await _marked(ours))
            await asyncio.sleep(0.1)
            await _marked(ours)
        ours.send(False)
        await asyncio.to_thread(process.join)
    finally:
        process.kill()
    without, with_ = (min(mark.took_s / max(mark.models, 1) for mark in each) for each in (quiet, loud))
    a_model_s = sum(mark.cpu_s for mark in quiet) / sum(mark.models for mark in quiet)
    an_attack_s = (sum(mark.cpu_s for mark in loud) - a_model_s * sum(mark.models for mark in loud)) / times
    blocks = [1e3 * statistics.median(mark.longest_block_s for mark in each) for each in (quiet, loud)]
    grown = (max(mark.rss for mark in loud) - max(mark.rss for mark in quiet)) / MIB
    return (
        f"{name:38} {times:5} x  {1e3 * without:6.2f} ms -> {1e3 * with_:6.2f} ms ({with_ / without:4.2f})"
        f"   CPU {1e3 * an_attack_s:7.2f} ms   block {blocks[0]:5.1f} ms -> {blocks[1]:5.1f} ms   {grown:+6.1f} MiB"
    )


async def main() -> None:
    logging.disable()
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        file, secrets = tokens_in(Path(directory))
        for name, row in ROWS.items():
            if not wanted or any(part in name for part in wanted):
                sys.stdout.write(await measured(name, row, file, secrets) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
