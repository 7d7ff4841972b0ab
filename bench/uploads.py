"""How fast updates come in, and how fast they are folded, beside what the machine can do.

Two tables, each measured in one run; what counts are the ratios:

- goodput of updates through TrainDone into the accumulator, with ten senders in a process of their own; and the same
  with generated protobuf code for the Chunks. Each twice, in the order ours, generated, generated, ours; the means
  count. Beside them, between the same two kinds of process, plain TCP and ten streams of grpc.aio that carry bytes and
  do nothing with them, both measured before and after. All on uvloop;
- folding one update into the float64 sum, in one thread and in those of a controller, beside `np.copyto` of the same
  buffer and saxpy. Each writes to memory that is in no cache, another one every time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from types import FunctionType
from typing import Any

import numpy as np
import uvloop
from limits import beside_the_limits
from processes import in_fresh_process
from scipy.linalg import blas
from tables import Columns, Run

from metisfl_async import ClientParams, Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.codec import chunk
from metisfl_async.codec import frame as frames
from metisfl_async.codec.frame import Header
from metisfl_async.controller.threads import Threads
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import Accept, Farewell, Hello, JoinRequest, TaskOffer
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.rule import Update
from metisfl_async.core.strategies.aggregation.spreading import spreading
from metisfl_async.transport._proto import metisfl_pb2
from metisfl_async.transport.grpc_link import GrpcLink

SENDERS = 10
TIMEOUT_S = 120
COLD_BYTES = 500_000_000  #: written in between, so that a destination has left the caches
UPLOADS: Columns = {
    "parameters": ("parameters", ",d"),
    "tcp_mb_s": ("plain TCP (MB/s)", ".0f"),
    "grpc_mb_s": ("bare gRPC (MB/s)", ".0f"),
    "ours_mb_s": ("TrainDone (MB/s)", ".0f"),
    "ours_of_tcp": ("TrainDone / TCP", ".2f"),
    "ours_of_grpc": ("TrainDone / gRPC", ".2f"),
    "generated_mb_s": ("generated protobuf (MB/s)", ".0f"),
    "generated_of_ours": ("generated / TrainDone", ".2f"),
}
FOLDING: Columns = {
    "parameters": ("parameters", ",d"),
    "fold_ms": ("fold, in one thread (ms)", ".2f"),
    "spread_ms": ("in the controller's threads (ms)", ".2f"),
    "copyto_ms": ("np.copyto (ms)", ".2f"),
    "fold_of_copyto": ("fold / copyto", ".2f"),
    "saxpy_ms": ("saxpy (ms)", ".2f"),
    "exact_ms": ("reproducible, in one thread (ms)", ".2f"),
    "exact_of_fold": ("reproducible / fold", ".2f"),
}


# --- goodput ---------------------------------------------------------------------------------------------------------


def use_generated_code() -> None:
    """Wrap and unwrap frames with the generated Chunk class instead of by hand, with no copies but its own."""
    frame_alone = frames.encode

    def generated_split(message: bytes) -> list[memoryview]:
        return [memoryview(frame) for frame in metisfl_pb2.Chunk.FromString(message).frames]

    def generated_encode(*bundle: frames.Frame) -> bytes:
        return metisfl_pb2.Chunk(frames=map(frame_alone, bundle)).SerializeToString()

    instead: dict[object, object] = {
        frame_alone: generated_encode,
        chunk.split: generated_split,
        chunk.frame_head: lambda size_bytes: b"",
    }
    for module in [module for name, module in sys.modules.items() if name.startswith("metisfl_async")]:
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and value in instead:
                vars(module)[name] = instead[value]


def send_updates(client: ClientParams, parameters: int, rounds: int, generated: bool, results: Connection) -> None:
    """Be ten learners that have nothing to do but to send; report the seconds of each round's uploads."""
    if generated:
        use_generated_code()

    async def main() -> list[float]:
        links = [GrpcLink(client) for _ in range(SENDERS)]
        models = [Model.from_arrays([np.full(parameters, n, np.float32)]) for n in range(SENDERS)]
        seconds = []
        async with asyncio.TaskGroup() as group:
            barrier = asyncio.Barrier(SENDERS + 1)
            for number, link in enumerate(links):
                group.create_task(be_a_learner(link, f"sender-{number}", models[number], barrier))
            for _ in range(rounds):
                await barrier.wait()
                start = time.perf_counter()
                await barrier.wait()
                seconds.append(time.perf_counter() - start)
        for link in links:
            await link.close()
        return seconds

    results.send(uvloop.run(main()))


async def be_a_learner(link: GrpcLink, name: str, model: Model, barrier: asyncio.Barrier) -> None:
    reply = await link.join(JoinRequest(LearnerId(name), Token("")))
    async with link.tasks() as stream:
        await stream.send(Hello(reply.token))
        while (messages := await stream.receive()) and not isinstance(message := messages[-1], Farewell):
            if isinstance(message, TaskOffer):
                await stream.send(Accept(message.task_id))
                facts: dict[str, Any] = {"num_training_examples": 1}
                (federation_id, version), task_id = message.model, message.task_id
                header = Header("update", model.manifest, version, task_id, {}, facts, federation_id)
                await barrier.wait()  # all have their task
                assert (await link.train_done(reply.token, header, model)).is_taken
                await barrier.wait()
    await link.leave(reply.token)


async def goodput(parameters: int, rounds: int, *, generated: bool, server: ServerParams | None = None) -> float:
    """Megabytes of updates a second, from the first sender's header to the last one's answer."""
    if generated:
        use_generated_code()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    config = ControllerConfig(evaluate_every=0)
    async with asyncio.timeout(TIMEOUT_S), Controller(server or ServerParams(), config) as controller:
        arguments = (controller.client_params, parameters, rounds, generated, sender)
        child = multiprocessing.get_context("spawn").Process(target=send_updates, args=arguments)
        child.start()
        sender.close()  # so that the end of the child ends the waiting for it
        try:
            signals = TerminationSignals(federation_rounds=rounds)
            first = [np.zeros(parameters, np.float32)]
            await DriverSession(controller, SENDERS, signals, initial_weights=first).run()
            seconds: list[float] = await asyncio.to_thread(receiver.recv)
            await asyncio.to_thread(child.join, TIMEOUT_S)
        finally:
            child.kill()
    return SENDERS * 4 * parameters / statistics.median(seconds[1:]) / 1e6


def measured_goodput(parameters: int, rounds: int, generated: bool) -> float:
    return uvloop.run(goodput(parameters, rounds, generated=generated))


def by_hand_and_generated(parameters: int, rounds: int) -> tuple[float, float]:
    first, second, third, fourth = (
        in_fresh_process(measured_goodput, parameters, rounds, generated) for generated in (False, True, True, False)
    )
    return (first + fourth) / 2, (second + third) / 2


# --- folding ---------------------------------------------------------------------------------------------------------


def median_ms(work: Callable[[], object], times: int = 9) -> float:
    """The median time of some runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def folding(parameters: int) -> dict[str, float]:
    """Milliseconds to fold one update, in one thread and in several, to copy it, and of others' ways to add it."""
    model = Model.from_arrays([np.random.default_rng(1).standard_normal(parameters, np.float32)])
    update, source = Update(LearnerId("a"), model, 2.0), model.arrays()[0]
    rules, exact = (
        [FedAvg(reproducible=yes) for _ in range(-(-COLD_BYTES // (8 * parameters)))] for yes in (False, True)
    )
    buffers = [np.empty(parameters, np.float32) for _ in range(2 * len(rules))]
    for buffer in buffers:
        buffer.fill(0)  # its pages are there
    turns = cycle(buffers)
    threads = Threads()

    for rule in (*rules, *exact):
        rule.start(model)
        rule.fold(update)  # the pages of its sum are there
    ready, ready_exact = cycle(rules), cycle(exact)
    times = {"fold_ms": median_ms(lambda: next(ready).fold(update))}
    with spreading(threads.spread):
        times["spread_ms"] = median_ms(lambda: next(ready).fold(update))
    threads.close()
    return times | {
        "copyto_ms": median_ms(lambda: np.copyto(next(turns), source)),
        "saxpy_ms": median_ms(lambda: blas.saxpy(source, next(turns), a=2.0)),
        "exact_ms": median_ms(lambda: next(ready_exact).fold(update)),
    }


def main() -> None:
    run = Run(__doc__)
    rounds, sizes = (3, [1_000_000]) if run.is_quick else (6, [1_000_000, 10_000_000])
    uploads, folds = run.table("uploads", UPLOADS), run.table("folding", FOLDING)
    for parameters in sizes:
        (ours, generated), tcp, grpc = beside_the_limits(partial(by_hand_and_generated, parameters, rounds))
        uploads.add(
            parameters=parameters,
            tcp_mb_s=tcp,
            grpc_mb_s=grpc,
            ours_mb_s=ours,
            ours_of_tcp=ours / tcp,
            ours_of_grpc=ours / grpc,
            generated_mb_s=generated,
            generated_of_ours=generated / ours,
        )
    for parameters in sizes:
        times = folding(parameters)
        of_copyto, of_fold = times["fold_ms"] / times["copyto_ms"], times["exact_ms"] / times["fold_ms"]
        folds.add(parameters=parameters, fold_of_copyto=of_copyto, exact_of_fold=of_fold, **times)
    run.end()


if __name__ == "__main__":
    main()
