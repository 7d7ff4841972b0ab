"""The messages of a round over grpc.aio alone: what no federation that is made of these calls can go below.

A server, and N clients in two processes more, exchange what a controller and its learners do: on one stream an offer,
an acknowledgement, an outcome and its receipt; an upload with its header, go-ahead, data and answer, or at once where
it is small; a download. Bytes are as many, and in as many messages; nobody serialises, copies, checks, hashes or adds
any.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import uvloop

from metisfl_async.codec.frame import UNASKED_BYTES
from metisfl_async.transport.grpc_options import CHANNEL_OPTIONS, SERVER_OPTIONS
from metisfl_async.transport.malloc import keep_freed_memory

__all__ = ["bare_round_ms"]

PROCESSES = 2
CHUNK = bytes(2**20)
TRAIN, EVALUATE, SMALL = b"train" + bytes(50), b"evaluate" + bytes(50), bytes(50)  #: messages on Tasks
HEADER = bytes(3000)  #: of a hundred layers
TURNS = 2  #: large models at one time, each way
TIMEOUT_S = 120


def bare_round_ms(parameters: int, learners: int, rounds: int, *, evaluate: bool) -> float:
    """Exchange the messages of so many rounds, and one before; the median, in milliseconds."""
    return uvloop.run(_rounds(4 * parameters, learners, rounds, evaluate))


def _chunks(size_bytes: int) -> Iterator[bytes]:
    for start in range(0, size_bytes, len(CHUNK)):
        yield CHUNK[: size_bytes - start]


class _Server:
    def __init__(self, size_bytes: int, learners: int) -> None:
        self.size_bytes, self.learners = size_bytes, learners
        self.streams: list[grpc.aio.ServicerContext] = []
        self.are_all_here = asyncio.Event()
        self.is_over = asyncio.Event()
        self.received = asyncio.Semaphore(0)
        self.down, self.up = (asyncio.Semaphore(TURNS if size_bytes > 4 * len(CHUNK) else learners) for _ in "du")

    async def tasks(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await context.read()
        self.streams.append(context)
        if len(self.streams) == self.learners:
            self.are_all_here.set()
        await self.is_over.wait()

    async def fetch_model(self, _: bytes, context: grpc.aio.ServicerContext) -> None:
        async with self.down:
            for chunk in _chunks(self.size_bytes):
                await context.write(chunk)

    async def train_done(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await context.read()
        async with self.up:
            if (left := self.size_bytes) > UNASKED_BYTES:
                await context.write(SMALL)
                while left > 0:
                    left -= len(await context.read())
        self.received.release()  # who has its answer ends the call under us
        await context.write(SMALL)

    async def train(self) -> None:
        await asyncio.gather(*(self._offer(stream, TRAIN) for stream in self.streams))
        for _ in self.streams:
            await self.received.acquire()

    async def evaluate(self) -> None:
        await asyncio.gather(*(self._evaluation(stream) for stream in self.streams))

    async def _offer(self, stream: grpc.aio.ServicerContext, task: bytes) -> None:
        await stream.write(task)
        await stream.read()

    async def _evaluation(self, stream: grpc.aio.ServicerContext) -> None:
        await self._offer(stream, EVALUATE)
        await stream.read()
        await stream.write(SMALL)


async def _rounds(size_bytes: int, learners: int, rounds: int, evaluate: bool) -> float:
    keep_freed_memory()
    serving = _Server(size_bytes, learners)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers = {
        "Tasks": grpc.stream_stream_rpc_method_handler(serving.tasks),
        "FetchModel": grpc.unary_stream_rpc_method_handler(serving.fetch_model),
        "TrainDone": grpc.stream_stream_rpc_method_handler(serving.train_done),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    spawn = multiprocessing.get_context("spawn")
    shares = [learners // PROCESSES + (number < learners % PROCESSES) for number in range(PROCESSES)]
    children = [spawn.Process(target=_be_learners, args=(port, size_bytes, share, evaluate)) for share in shares]
    times_ms = []
    try:
        for child in children:
            child.start()
        async with asyncio.timeout(TIMEOUT_S):
            await serving.are_all_here.wait()
            for _ in range(rounds + 1):
                begun_at = time.perf_counter()
                await serving.train()
                if evaluate:
                    await serving.evaluate()
                times_ms.append((time.perf_counter() - begun_at) * 1e3)
            serving.is_over.set()
            for child in children:
                await asyncio.to_thread(child.join)
    finally:
        await server.stop(None)
        for child in children:
            child.kill()
    return statistics.median(times_ms[1:])


def _be_learners(port: int, size_bytes: int, count: int, evaluates: bool) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(_be_learner(port, size_bytes, evaluates) for _ in range(count)))

    uvloop.run(all_of_them())


async def _be_learner(port: int, size_bytes: int, evaluates: bool) -> None:
    """Train, and evaluate what comes next or fetch it before training: one model down a round, as ours."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        tasks = channel.stream_stream("/Bare/Tasks")()
        await tasks.write(SMALL)
        while (task := await tasks.read()) is not grpc.aio.EOF:
            if task == SMALL:
                continue
            await tasks.write(SMALL)
            if task == EVALUATE or not evaluates:
                fetch = channel.unary_stream("/Bare/FetchModel")(SMALL)
                while await fetch.read() is not grpc.aio.EOF:
                    pass
            if task == TRAIN:
                upload = channel.stream_stream("/Bare/TrainDone")()
                if size_bytes > UNASKED_BYTES:
                    await upload.write(HEADER)
                    await upload.read()
                for chunk in _chunks(size_bytes):
                    await upload.write(chunk)
                await upload.read()
                upload.cancel()
            else:
                await tasks.write(SMALL)
