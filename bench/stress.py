"""The stress test of MetisFL's paper: no training, only models that move and are averaged.

A dense model of 100 layers with P float32 parameters; N learners, in processes of their own, return it plus a constant.
Real gRPC on loopback. For each (P, N) a fresh controller process measures, without its first round: the dispatch of
training tasks, the training round, folding and averaging, the evaluation round, the whole round; bytes moved per
second, its CPU seconds per round, its peak memory, and the 99th percentile of its event loop's lag. For scale, the rate
of one plain uvloop TCP connection between two processes is measured in the same run.

Prints a Markdown table; with --json, also writes the figures there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import uvloop
from limits import raw_tcp
from numpy.typing import NDArray

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

Weights = Sequence[NDArray[Any]]
QUICK = [(100_000, 10), (1_000_000, 10)]
FULL = [(p, n) for p in (100_000, 1_000_000) for n in (10, 50, 200)] + [(10_000_000, 10)]
LAYERS = 100
TICK_S = 0.010


class AddsConstant(Learner):
    def __init__(self, parameters: int) -> None:
        super().__init__(num_training_examples=1)
        self.layer = parameters // LAYERS

    def get_weights(self) -> Weights:
        return [np.zeros(self.layer, np.float32) for _ in range(LAYERS)]

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        return [layer + np.float32(0.001) for layer in parameters], {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"value": float(parameters[0][0])}


def run_learners(port: int, parameters: int, count: int) -> None:
    async def all_of_them() -> None:
        params = ClientParams("127.0.0.1", port)
        await asyncio.gather(*(run_learner(AddsConstant(parameters), params) for _ in range(count)))

    uvloop.run(all_of_them())


async def tick(lags_ms: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags_ms.append((time.perf_counter() - start - TICK_S) * 1e3)


async def measure(parameters: int, learners: int, rounds: int, processes: int) -> dict[str, float]:
    spawn = multiprocessing.get_context("spawn")
    lags_ms: list[float] = []
    async with Controller(ServerParams(), ControllerConfig()) as controller:
        port = controller.client_params.port
        shares = [len(share) for share in np.array_split(np.arange(learners), processes)]
        children = [spawn.Process(target=run_learners, args=(port, parameters, share)) for share in shares]
        for child in children:
            child.start()
        session = DriverSession(controller, learners, TerminationSignals(federation_rounds=rounds + 1))
        running = asyncio.create_task(session.run())
        ticking = cpu = None
        async for event in session.events():
            if type(event).__name__ == "RoundFinished" and ticking is None:
                ticking, cpu = asyncio.create_task(tick(lags_ms)), time.process_time()
        used = time.process_time() - (cpu or 0.0)
        result = await running
        assert ticking is not None
        ticking.cancel()
        for child in children:
            child.join()
    assert result.final_model is not None
    np.testing.assert_allclose(result.final_model[0], 0.001 * (rounds + 1), rtol=1e-4)
    records = result.rounds[1:]

    def median(name: str) -> float:
        return float(statistics.median(getattr(record, name) for record in records))

    moved = [(r.bytes_sent + r.bytes_received) / r.duration_ms / 1e3 for r in records]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters": parameters,
        "learners": learners,
        "dispatch_ms": median("dispatch_ms"),
        "train_ms": median("train_ms"),
        "aggregation_ms": median("aggregation_ms"),
        "evaluation_ms": median("evaluation_ms"),
        "round_ms": median("duration_ms"),
        "mb_per_s": statistics.median(moved),
        "cpu_s_per_round": used / rounds,
        "peak_rss_mb": rss / 1e6,
        "peak_rss_models": rss / (4 * parameters),
        "lag_p99_ms": float(np.percentile(lags_ms, 99)) if lags_ms else 0.0,
    }


def in_fresh_process(parameters: int, learners: int, rounds: int, processes: int) -> dict[str, float]:
    """Measure in a process of its own, so that its memory and CPU time are the controller's alone."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (sender, parameters, learners, rounds, processes)
    child = multiprocessing.get_context("spawn").Process(target=_measure_into, args=arguments)
    child.start()
    figures: dict[str, float] = receiver.recv()
    child.join()
    return figures


def _measure_into(sender: Any, parameters: int, learners: int, rounds: int, processes: int) -> None:
    sender.send(uvloop.run(measure(parameters, learners, rounds, processes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small sizes, three rounds")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="that the learners share; default: %(default)s")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    limit = uvloop.run(raw_tcp())
    print(f"\n{os.cpu_count()} cores, one plain uvloop TCP connection: {limit:.0f} MB/s\n")
    print(
        "| parameters | learners | dispatch (ms) | train round | aggregation | evaluation | whole round "
        "| MB/s | of plain TCP | CPU s | peak MB | lag p99 (ms) |"
    )
    print("|" + " ---: |" * 12)
    measured = []
    for parameters, learners in QUICK if options.quick else FULL:
        rounds = 3 if options.quick else options.rounds
        figures = in_fresh_process(parameters, learners, rounds, options.processes)
        measured.append(figures)
        print(
            f"| {parameters:,} | {learners} | {figures['dispatch_ms']:.0f} | {figures['train_ms']:.0f} "
            f"| {figures['aggregation_ms']:.0f} | {figures['evaluation_ms']:.0f} | {figures['round_ms']:.0f} "
            f"| {figures['mb_per_s']:.0f} | {figures['mb_per_s'] / limit:.2f} | {figures['cpu_s_per_round']:.2f} "
            f"| {figures['peak_rss_mb']:.0f} | {figures['lag_p99_ms']:.1f} |",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"raw_tcp_mb_per_s": limit, "measured": measured}, file, indent=2)


if __name__ == "__main__":
    main()
