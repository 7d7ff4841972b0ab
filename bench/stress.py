"""The stress test of MetisFL's paper: no training, only models that move and are averaged.

A dense model of 100 layers with P float32 parameters; N learners, in two processes of their own, add a constant to it.
They share no memory; in a process, one at a time trains. Real gRPC on loopback. For each (P, N) a fresh controller
process, in which the driver is too, measures without its first round: the dispatch of training tasks, the training
round, folding and averaging, the dispatch of evaluations, the evaluation round, the whole round; its CPU seconds per
round, its peak memory, the bytes that moved, and how late its event loop, uvloop's, was. Times are medians of so many
rounds; the others end with the last one. The run fails unless every learner's update counted in every round, and every
layer of the model is right. What needs more memory than there is, is not run; its row says so.

The second table has rounds without evaluation beside what their bytes take on a plain uvloop TCP connection and on bare
grpc.aio streams, measured right before and after.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import uvloop
from lag import tick
from limits import beside_the_limits
from numpy.typing import NDArray
from processes import in_fresh_process, peak_rss_mb
from tables import Columns, Row, Run

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.events import RoundFinished

Weights = Sequence[NDArray[Any]]
LAYERS, PROCESSES = 100, 2
JOIN_TIMEOUT_S, TIMEOUT_S = 120, 600
MILLION = 1_000_000
QUICK = [(1, 10), (100_000, 10)]
FULL = [(1, 10), *((p, n) for p in (100_000, MILLION, 10 * MILLION) for n in (10, 25, 50, 100, 200))]
STRESS: Columns = {
    "parameters": ("parameters", ",d"),
    "learners": ("learners", "d"),
    "rounds": ("rounds", "d"),
    "dispatch_ms": ("train dispatch (ms)", ".0f"),
    "train_ms": ("train round (ms)", ".0f"),
    "aggregation_ms": ("aggregation (ms)", ".0f"),
    "evaluation_dispatch_ms": ("evaluation dispatch (ms)", ".0f"),
    "evaluation_ms": ("evaluation round (ms)", ".0f"),
    "round_ms": ("federation round (ms)", ".0f"),
    "cpu_s": ("CPU (s)", ".2f"),
    "rss_mb": ("peak RSS (MB)", ".0f"),
    "rss_models": ("peak RSS (models)", ".1f"),
    "moved_mb": ("moved (MB)", ".0f"),
    "models_down": ("models down per learner", ".2f"),
    "lag_p99_ms": ("lag p99 (ms)", ".1f"),
}
LIMIT: Columns = {
    "parameters": ("parameters", ",d"),
    "learners": ("learners", "d"),
    "round_ms": ("round without evaluation (ms)", ".0f"),
    "moved_mb": ("moved (MB)", ".0f"),
    "tcp_ms": ("by plain TCP (ms)", ".0f"),
    "of_tcp": ("round / TCP", ".2f"),
    "grpc_ms": ("by bare gRPC (ms)", ".0f"),
    "of_grpc": ("round / gRPC", ".2f"),
}


class AddsConstant(Learner):
    def __init__(self, parameters: int) -> None:
        super().__init__(num_training_examples=1)
        self.shape = (LAYERS, parameters // LAYERS) if parameters > LAYERS else (1, parameters)

    def get_weights(self) -> Weights:
        return list(np.zeros(self.shape, np.float32))

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        for layer in parameters:
            np.add(layer, np.float32(0.001), out=layer)
        return parameters, {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"value": float(parameters[0][0])}


def run_learners(port: int, parameters: int, count: int) -> None:
    """Be so many learners, of which one at a time works: each holds the global model and its update, and no more."""

    async def all_of_them() -> None:
        params = ClientParams("127.0.0.1", port)
        with ThreadPoolExecutor(1) as worker:
            await asyncio.gather(*(run_learner(AddsConstant(parameters), params, worker=worker) for _ in range(count)))

    uvloop.run(all_of_them())


def needed_mb(parameters: int, learners: int) -> float:
    """Say what the learners take: two models each and what gRPC holds of a third, and the two processes."""
    return learners * (2 * 4 * parameters / 1e6 + 3) + PROCESSES * (150 + 2 * 4 * parameters / 1e6)


async def federation(
    parameters: int, learners: int, rounds: int, evaluate_every: int, store: ModelStoreConfig | None = None
) -> Row:
    spawn = multiprocessing.get_context("spawn")
    lags_ms: list[float] = []
    config = ControllerConfig(evaluate_every=evaluate_every)
    async with asyncio.timeout(TIMEOUT_S), Controller(ServerParams(), config, store) as controller:
        port = controller.client_params.port
        shares = [len(share) for share in np.array_split(np.arange(learners), PROCESSES)]
        children = [spawn.Process(target=run_learners, args=(port, parameters, share)) for share in shares]
        for child in children:
            child.start()
        signals = TerminationSignals(federation_rounds=rounds + 1)
        session = DriverSession(controller, learners, signals, join_timeout_secs=JOIN_TIMEOUT_S)
        running = asyncio.create_task(session.run())
        try:
            async for event in session.events():
                if isinstance(event, RoundFinished):
                    assert len(event.record.participants) == learners, event.record.summary()
                    if event.record.number == 1:
                        ticking, cpu_s = asyncio.create_task(tick(lags_ms)), time.process_time()
                    elif event.record.number == rounds + 1:  # what follows is the end of the federation
                        cpu_s, rss_mb = (time.process_time() - cpu_s) / rounds, peak_rss_mb()
                        ticking.cancel()
            result = await running
            for child in children:
                await asyncio.to_thread(child.join, JOIN_TIMEOUT_S)
                assert child.exitcode == 0
        finally:
            for child in children:
                child.kill()
    assert result.final_model is not None
    for layer in result.final_model:
        np.testing.assert_allclose(layer, 0.001 * (rounds + 1), rtol=1e-4)
    records = result.rounds[1:]

    def median(name: str) -> float:
        return float(statistics.median(getattr(record, name) for record in records))

    counts = parameters > 1  # else a model is nothing beside its messages
    return {
        "parameters": parameters,
        "learners": learners,
        "rounds": len(records),
        "dispatch_ms": median("dispatch_ms"),
        "train_ms": median("train_ms"),
        "aggregation_ms": median("aggregation_ms"),
        "evaluation_dispatch_ms": median("evaluation_dispatch_ms"),
        "evaluation_ms": median("evaluation_ms"),
        "round_ms": median("duration_ms"),
        "cpu_s": cpu_s,
        "rss_mb": rss_mb,
        "rss_models": rss_mb / (4 * parameters / 1e6) if counts else "-",
        "moved_mb": (median("bytes_sent") + median("bytes_received")) / 1e6,
        "models_down": median("bytes_sent") / learners / (4 * parameters) if counts else "-",
        "lag_p99_ms": float(np.percentile(lags_ms, 99)),
    }


def measure(parameters: int, learners: int, rounds: int, evaluate_every: int = 1) -> Row:
    """Run a federation, and say how its rounds were, or that there is too little memory for its learners."""
    needed, free = needed_mb(parameters, learners), psutil.virtual_memory().available / 1e6
    if needed + 1_000 > free:
        texts = dict.fromkeys(STRESS, "-")
        texts["round_ms"] = f"learners need {needed / 1e3:.0f} GB of {free / 1e3:.0f}"
        return texts | {"parameters": parameters, "learners": learners}
    return uvloop.run(federation(parameters, learners, rounds, evaluate_every))


def rounds_of(parameters: int, learners: int, is_quick: bool) -> int:
    """Choose how many rounds are measured: three at least, but where one takes more than five seconds or so."""
    if parameters == 1:
        return 20
    moved = parameters * learners
    if moved >= 1_000 * MILLION:
        return 1
    if is_quick or moved > 250 * MILLION:
        return 2
    return 3 if learners > 50 or moved > 100 * MILLION else 5


def without_evaluation(parameters: int, learners: int, rounds: int) -> Row:
    """Run rounds without evaluation, and see what their bytes take at least."""
    row, tcp, grpc = beside_the_limits(lambda: in_fresh_process(measure, parameters, learners, rounds, 0))
    taken = {key: row[key] for key in ("parameters", "learners", "round_ms", "moved_mb")}
    if isinstance(row["round_ms"], str):  # there is too little memory
        return dict.fromkeys(LIMIT, "-") | taken
    tcp_ms, grpc_ms = row["moved_mb"] / tcp * 1e3, row["moved_mb"] / grpc * 1e3
    return taken | {
        "tcp_ms": tcp_ms,
        "of_tcp": row["round_ms"] / tcp_ms,
        "grpc_ms": grpc_ms,
        "of_grpc": row["round_ms"] / grpc_ms,
    }


def main() -> None:
    run = Run(__doc__)
    stress, limit = run.table("stress", STRESS), run.table("limit", LIMIT)
    for parameters, learners in QUICK if run.is_quick else FULL:
        stress.add(**in_fresh_process(measure, parameters, learners, rounds_of(parameters, learners, run.is_quick)))
    limit.add(**without_evaluation(*((MILLION, 10, 2) if run.is_quick else (10 * MILLION, 10, 5))))
    run.end()


if __name__ == "__main__":
    main()
