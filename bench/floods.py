"""What floods of calls cost the others, and what of that is gRPC's own.

Two honest learners train without rounds, as fast as they go, and an attacker floods with attacks of tests/attackers,
each begun anew 50 ms after it is over. In turns, for a second each, the attacker rests, floods the controller, floods a
server that only refuses (bare_refusals.py) in a process of its own, and floods one in the controller's process, on its
loop. So the third has what the attacker and the kernel take, the fourth also what grpcio takes, and what is left of
the second is ours.

The CPU time of an attack is measured while the honest learners hold their updates back: that of the controller's
process, of the bare server's, and of the attacker's.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from bare_refusals import bare_server
from tables import Columns, Run

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from attackers.catalogue import ROWS, Row
from attackers.ground import DRIVER, HONEST, Outside, tokens_in
from attackers.measure import Secrets, attacked
from federations import Adds
from puppet import weights

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.events import ModelPublished

FLOODS = {  #: by name in the catalogue: what it is, in words
    "resets and pings": "a stranger begins 1,000 calls and resets them, with pings and settings between",
    "1,000 calls given up": "a stranger begins 1,000 calls and cancels them",
    "wrong tokens": "200 calls with wrong tokens",
    "500 joins": "250 joins as nobody, and 250 of a learner as another",
    "200 joins as another": "200 joins of a learner as another, 20 at a time",
    "3,000 heartbeats": "3,000 heartbeats of a learner",
    "16,384 tensors of 32 dimensions": "an update whose header has 16,384 tensors of 32 dimensions",
    "10 headers of 16,384 tensors": "10 updates at once, with unknown headers of 16,384 tensors",
    "25 headers of 4,000 metrics": "25 updates at once, with headers of 4,000 metrics",
    "an update in tiny frames": "an update of 20 KB in frames of one byte",
}
WAIT_S = 60.0
spawn = multiprocessing.get_context("spawn")

FLOODED: Columns = {
    "flood": ("one flood, again and again", ""),
    "alone_ms": ("a model without it (ms)", ".1f"),
    "ours": ("beside it (times as long)", ".2f"),
    "elsewhere": ("at bare gRPC in another process (times)", ".2f"),
    "same_loop": ("at bare gRPC on our loop (times)", ".2f"),
    "left": ("ours / in another process", ".2f"),
    "left_same_loop": ("ours / on our loop", ".2f"),
}
CPU: Columns = {
    "flood": ("one flood", ""),
    "ours_ms": ("CPU of our controller (ms)", ".1f"),
    "bare_ms": ("of bare gRPC (ms)", ".1f"),
    "times": ("ours / bare", ".2f"),
    "attacker_ms": ("of the attacker (ms)", ".1f"),
}


class Mark(NamedTuple):
    """What a process has done so far."""

    models: int
    at_s: float
    cpu_s: float


# --- processes that are flooded --------------------------------------------------------------------------------------


class Trains(Adds):
    """Sends its update back at once, or when it may."""

    def __init__(self, number: int, size: int, may_train: asyncio.Event) -> None:
        super().__init__(number, size)
        self._may_train = may_train

    async def train(self, parameters: list[Any], config: dict[str, Any]) -> Any:  # type: ignore[override]
        await self._may_train.wait()
        return super().train(parameters, config)

    async def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> Any:  # type: ignore[override]
        return super().evaluate(parameters, config)


async def federation(pipe: Connection, file: Path, secrets: Secrets, size: int) -> None:
    """Train for as long as the pipe says whether to, and mark what was done; its ports go first."""
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")
    async with Controller(ServerParams(tokens=file), config) as controller, bare_server(secrets.values()) as port:
        outside = Outside(controller.client_params, secrets, size, AsyncExitStack())
        may_train, models = asyncio.Event(), 0
        learners = [
            asyncio.create_task(run_learner(Trains(number + 1, size, may_train), outside.shown(name)))
            for number, name in enumerate(HONEST)
        ]
        signals = TerminationSignals(global_updates=10**9)
        session = DriverSession(outside.shown(DRIVER.name), 2, signals, initial_weights=weights(0, size))
        running = asyncio.create_task(session.run())

        async def count() -> None:
            nonlocal models
            async for event in session.events():
                models += isinstance(event, ModelPublished)

        counting = asyncio.create_task(count())
        pipe.send((controller.client_params.port, port))
        while (trains := await asyncio.to_thread(pipe.recv)) is not None:
            (may_train.set if trains else may_train.clear)()
            pipe.send(Mark(models, time.perf_counter(), time.process_time()))
        may_train.set()
        await session.stop()
        await running
        await asyncio.gather(counting, *learners)


async def bare(pipe: Connection, secrets: Secrets) -> None:
    """Refuse, and mark what was done."""
    async with bare_server(secrets.values()) as port:
        pipe.send((port,))
        while await asyncio.to_thread(pipe.recv) is not None:
            pipe.send(Mark(0, time.perf_counter(), time.process_time()))


def served(main: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    logging.disable()
    uvloop.run(main(*arguments))


class Flooded:
    """A process that is flooded, seen from the attacker's."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.ports: tuple[int, ...] = self._heard()

    async def mark(self, trains: bool = True) -> Mark:
        """Say whether to train from now on."""
        self._pipe.send(trains)
        return Mark(*await asyncio.to_thread(self._heard))

    def _heard(self) -> Any:
        if not self._pipe.poll(WAIT_S):
            raise TimeoutError(f"no word for {WAIT_S:g} s")
        return self._pipe.recv()


@contextmanager
def flooded(main: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> Iterator[Flooded]:
    here, there = spawn.Pipe()
    process = spawn.Process(target=served, args=(main, there, *arguments))
    process.start()
    there.close()  # so that we hear when it dies
    try:
        yield Flooded(here)
        here.send(None)
        process.join(WAIT_S)
    finally:
        process.kill()
        process.join()


# --- the attacker ----------------------------------------------------------------------------------------------------


class Flood:
    """One flood, and what it may be aimed at."""

    def __init__(self, row: Row, secrets: Secrets, ours: Flooded, other: Flooded) -> None:
        self._row, self._secrets, self.ours, self.other = row, secrets, ours, other
        self.targets: Mapping[str, int | None] = {
            "alone": None,
            "ours": ours.ports[0],
            "elsewhere": other.ports[0],
            "same_loop": ours.ports[1],
        }

    async def at(self, port: int | None, seconds: float) -> int:
        """Flood for so long, or rest; how often."""
        if port is None:
            await asyncio.sleep(seconds)
            return 0
        return await attacked(self._row, ClientParams("127.0.0.1", port), self._secrets, seconds)

    async def model_ms(self, name: str, seconds: float) -> float:
        """How long a model takes beside it."""
        before = await self.ours.mark()
        await self.at(self.targets[name], seconds)
        after = await self.ours.mark()
        await asyncio.sleep(0.1)  # for what it has left
        return 1e3 * (after.at_s - before.at_s) / max(after.models - before.models, 1)

    async def cpu_ms(self, name: str, seconds: float) -> tuple[float, float]:
        """Measure how much CPU time a flood takes there, beside what the process takes anyway, and of the attacker."""
        target = self.other if name == "elsewhere" else self.ours
        idle = await target.mark(trains=False)
        await self.at(None, seconds)
        before, own_s = await target.mark(trains=False), time.process_time()
        times = await self.at(self.targets[name], seconds)
        own_s = time.process_time() - own_s
        await asyncio.sleep(0.2)  # for what it has left
        after = await target.mark(trains=False)
        anyway_s = (before.cpu_s - idle.cpu_s) / (before.at_s - idle.at_s) * (after.at_s - before.at_s)
        return 1e3 * (after.cpu_s - before.cpu_s - anyway_s) / times, 1e3 * own_s / times


async def measured(flood: Flood, turns: int, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Measure a flood: rounds beside it, and its CPU time; in turns, and each second turn the other way round."""
    await flood.ours.mark()
    await flood.at(None, seconds)
    took: dict[str, list[float]] = {name: [] for name in flood.targets}
    for turn in range(turns):
        for name in list(took)[:: 1 - 2 * (turn % 2)]:
            took[name].append(await flood.model_ms(name, seconds))
    await flood.ours.mark(trains=False)
    await flood.at(None, 0.5)
    used: dict[str, list[tuple[float, float]]] = {"ours": [], "elsewhere": []}
    for _ in range(turns):
        for name, each in used.items():
            each.append(await flood.cpu_ms(name, seconds))

    def ratio(of: str, to: str) -> float:
        return statistics.median(one / other for one, other in zip(took[of], took[to], strict=True))

    ours_ms, bare_ms = (statistics.median(cpu for cpu, _ in each) for each in used.values())
    rounds = {
        "alone_ms": statistics.median(took["alone"]),
        **{name: ratio(name, "alone") for name in ("ours", "elsewhere", "same_loop")},
        "left": ratio("ours", "elsewhere"),
        "left_same_loop": ratio("ours", "same_loop"),
    }
    attacker_ms = statistics.median(own for _, own in used["ours"])
    return rounds, {"ours_ms": ours_ms, "bare_ms": bare_ms, "times": ours_ms / bare_ms, "attacker_ms": attacker_ms}


def main() -> None:
    run = Run(__doc__, only="", turns=7)
    turns, seconds = (2, 0.2) if run.is_quick else (run.options["turns"], 1.0)
    rounds_table, cpu_table, cpu_rows = run.table("flooded", FLOODED), run.table("flood_cpu", CPU), []
    logging.disable()
    with tempfile.TemporaryDirectory() as directory:
        file, secrets = tokens_in(Path(directory))
        for name, words in FLOODS.items():
            if run.options["only"] not in name:
                continue
            row = ROWS[name]
            with flooded(federation, file, secrets, row.size) as ours, flooded(bare, secrets) as other:
                rounds, cpu = asyncio.run(measured(Flood(row, secrets, ours, other), turns, seconds))
            rounds_table.add(flood=words, **rounds)
            cpu_rows.append({"flood": words, **cpu})
    for each in cpu_rows:
        cpu_table.add(**each)
    run.end()


if __name__ == "__main__":
    main()
