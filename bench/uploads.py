"""How fast updates come in, and how fast they are folded, beside what the machine can do.

Prints three tables, each measured in one run, as ratios:

- goodput of updates through TrainDone into the accumulator, with ten senders in a process of their own, beside plain
  uvloop TCP between the same two kinds of process; and the same with generated protobuf code for the Chunks;
- folding one update into the float64 sum, beside `np.copyto` of the same buffer into a cold destination, and saxpy.

With --json, also writes the figures there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import uvloop
from limits import raw_tcp
from numpy.typing import NDArray
from scipy.linalg import blas

from metisfl_async import ClientParams, Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.codec import frame as frames
from metisfl_async.codec.chunk import frame_of_chunk
from metisfl_async.codec.frame import Header
from metisfl_async.core.aggregation.fedavg import FedAvg
from metisfl_async.core.aggregation.rule import Update
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import Accept, Farewell, Hello, JoinRequest, TaskOffer
from metisfl_async.core.model import Model
from metisfl_async.transport import grpc_link
from metisfl_async.transport._proto import metisfl_pb2
from metisfl_async.transport.grpc_link import GrpcLink

SENDERS = 10


# --- goodput ---------------------------------------------------------------------------------------------------------


def use_generated_code() -> None:
    """Wrap and unwrap frames with the generated Chunk class instead of by hand."""
    by_hand = frame_of_chunk

    def generated_frame_of_chunk(chunk: bytes) -> memoryview:
        return memoryview(metisfl_pb2.Chunk.FromString(chunk).frame)

    def generated_encode(frame: frames.Frame) -> bytes:
        return metisfl_pb2.Chunk(frame=bytes(by_hand(frames.encode(frame)))).SerializeToString()

    vars(frames)["frame_of_chunk"] = generated_frame_of_chunk
    vars(grpc_link)["encode"] = generated_encode


def send_updates(port: int, parameters: int, rounds: int, generated: bool, results: Connection) -> None:
    """Be ten learners that have nothing to do but to send; report the seconds of each round's uploads."""
    if generated:
        use_generated_code()

    async def main() -> list[float]:
        links = [GrpcLink(ClientParams("127.0.0.1", port)) for _ in range(SENDERS)]
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
        while not isinstance(message := await stream.receive(), Farewell):
            if isinstance(message, TaskOffer):
                await stream.send(Accept(message.task_id))
                facts: dict[str, Any] = {"num_training_examples": 1}
                header = Header(
                    "update", model.manifest, message.model_version, message.task_id, reply.token, {}, facts
                )
                await barrier.wait()  # all have their task
                assert (await link.train_done(header, model)).is_counted
                await barrier.wait()
    await link.leave(reply.token)


async def goodput(parameters: int, rounds: int, *, generated: bool) -> float:
    """Megabytes of updates a second, from the first sender's header to the last one's answer."""
    if generated:
        use_generated_code()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    async with Controller(ServerParams(), ControllerConfig(evaluate_every=0)) as controller:
        arguments = (controller.client_params.port, parameters, rounds, generated, sender)
        child = multiprocessing.get_context("spawn").Process(target=send_updates, args=arguments)
        child.start()
        signals = TerminationSignals(federation_rounds=rounds)
        first = [np.zeros(parameters, np.float32)]
        await DriverSession(controller, SENDERS, signals, initial_weights=first).run()
        seconds: list[float] = await asyncio.to_thread(receiver.recv)
        child.join()
    return SENDERS * 4 * parameters / statistics.median(seconds[1:]) / 1e6


def measure_into(sender: Connection, parameters: int, rounds: int, generated: bool) -> None:
    sender.send(uvloop.run(goodput(parameters, rounds, generated=generated)))


def in_fresh_process(parameters: int, rounds: int, *, generated: bool) -> float:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (sender, parameters, rounds, generated)
    child = multiprocessing.get_context("spawn").Process(target=measure_into, args=arguments)
    child.start()
    figure: float = receiver.recv()
    child.join()
    return figure


# --- folding ---------------------------------------------------------------------------------------------------------


def median_s(work: Callable[[], object], times: int = 9) -> float:
    """The median time of some runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def folding(parameters: int) -> dict[str, float]:
    """Seconds to fold one update, to copy it to a destination that is in no cache, and of saxpy."""
    update = Model.from_arrays([np.random.default_rng(1).standard_normal(parameters, np.float32)])
    rule = FedAvg()
    rule.start(update)
    cold = [np.empty(parameters, np.float32) for _ in range(max(3, 200_000_000 // (4 * parameters)))]
    for buffer in cold:
        buffer.fill(0)  # its pages are there
    source: NDArray[np.float32] = update.arrays()[0]
    turns = iter(range(10**9))
    return {
        "fold_s": median_s(lambda: rule.fold(Update(LearnerId("a"), update, 2.0))),
        "copyto_s": median_s(lambda: np.copyto(cold[next(turns) % len(cold)], source)),
        "saxpy_s": median_s(lambda: blas.saxpy(source, cold[0], a=2.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer rounds")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rounds, sizes = (3, [1_000_000]) if options.quick else (6, [1_000_000, 10_000_000])
    figures: dict[str, Any] = {"uploads": [], "folding": []}
    print(f"\n{os.cpu_count()} cores; {SENDERS} senders in one process, one controller in another\n")
    print("| parameters | plain TCP (MB/s) | TrainDone (MB/s) | of TCP | generated protobuf (MB/s) | of TCP |")
    print("|" + " ---: |" * 6)
    for parameters in sizes:
        tcp = uvloop.run(raw_tcp())
        ours, generated = (in_fresh_process(parameters, rounds, generated=flag) for flag in (False, True))
        figures["uploads"].append(
            {"parameters": parameters, "tcp_mb_s": tcp, "traindone_mb_s": ours, "generated_mb_s": generated}
        )
        print(
            f"| {parameters:,} | {tcp:.0f} | {ours:.0f} | {ours / tcp:.2f} | {generated:.0f} | {generated / tcp:.2f} |",
            flush=True,
        )
    print("\n| parameters | fold (ms) | np.copyto, cold (ms) | fold / copyto | saxpy (ms) |")
    print("|" + " ---: |" * 5)
    for parameters in sizes:
        times = folding(parameters)
        figures["folding"].append({"parameters": parameters} | times)
        print(
            f"| {parameters:,} | {times['fold_s'] * 1e3:.2f} | {times['copyto_s'] * 1e3:.2f} "
            f"| {times['fold_s'] / times['copyto_s']:.2f} | {times['saxpy_s'] * 1e3:.2f} |",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
