"""What the machine and gRPC can do at best: plain uvloop TCP, and a grpc.aio stream, between two processes.

What is sent and where it is received are as large as ten updates of ten million parameters: one megabyte that is sent,
and overwritten, again and again would stay in the processor's caches.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections import deque
from collections.abc import Callable
from itertools import cycle, islice
from typing import TypeVar

import grpc
import grpc.aio
import uvloop

from metisfl_async.transport.grpc_options import CHANNEL_OPTIONS, SERVER_OPTIONS
from metisfl_async.transport.malloc import keep_freed_memory

__all__ = ["bare_grpc", "beside_the_limits", "raw_tcp"]

MIB = 2**20
STREAMS, CHUNKS = 10, 40  #: updates, and of each so many MiB
TIMEOUT_S = 120  #: a gigabyte takes a second or so
T = TypeVar("T")


def beside_the_limits(measure: Callable[[], T]) -> tuple[T, float, float]:
    """Measure something; with it, the megabytes per second of plain TCP and bare gRPC, means of before and after."""
    before = uvloop.run(_both())
    measured = measure()
    tcp, grpc = (statistics.mean(pair) for pair in zip(before, uvloop.run(_both()), strict=True))
    return measured, tcp, grpc


async def _both() -> tuple[float, float]:
    return await raw_tcp(), await bare_grpc()


async def raw_tcp(size: int = 1024 * MIB) -> float:
    """Give the megabytes per second of one plain uvloop TCP connection."""
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    server = await asyncio.get_running_loop().create_server(lambda: _Sink(size, done), "127.0.0.1", 0)
    async with server:
        return await _rate(size, done, _send_tcp, server.sockets[0].getsockname()[1])


async def bare_grpc(size: int = 1000 * MIB) -> float:
    """Give the megabytes per second of ten grpc.aio streams from one process, with our options.

    Messages are 1 MiB of bytes, which nobody serialises or looks at: what gRPC and Python's part of it take. The latest
    of each stream are kept, an update's worth.
    """
    left, started = size, 0.0

    async def take(request: object, context: grpc.aio.ServicerContext) -> None:
        nonlocal left, started
        started, kept = started or time.perf_counter(), deque[bytes](maxlen=CHUNKS)
        while (message := await context.read()) is not grpc.aio.EOF:
            kept.append(message)
            left -= len(message)
            if left == 0:
                done.set_result(time.perf_counter() - started)

    keep_freed_memory()
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers = {"Take": grpc.stream_stream_rpc_method_handler(take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Limits", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        return await _rate(size, done, _send_grpc, port)
    finally:
        await server.stop(None)


async def _rate(size: int, done: asyncio.Future[float], send: Callable[[int, int], None], port: int) -> float:
    """Start a sender, and wait until all has come."""
    child = multiprocessing.get_context("spawn").Process(target=send, args=(port, size))
    child.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            seconds = await done
        await asyncio.to_thread(child.join, TIMEOUT_S)
    finally:
        child.kill()
    return size / seconds / 1e6


class _Sink(asyncio.BufferedProtocol):
    def __init__(self, size: int, done: asyncio.Future[float]) -> None:
        self.room, self.position = memoryview(bytearray(b"0") * (STREAMS * CHUNKS * MIB)), 0
        self.left, self.done = size, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.started = time.perf_counter()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room[self.position : self.position + MIB]

    def buffer_updated(self, nbytes: int) -> None:
        self.position = (self.position + nbytes) % len(self.room)
        self.left -= nbytes

    def eof_received(self) -> None:
        assert self.left == 0
        self.done.set_result(time.perf_counter() - self.started)


def _update() -> list[bytes]:
    return [b"0" * MIB for _ in range(CHUNKS)]  # written: memory that never was is read from one page


def _send_tcp(port: int, size: int) -> None:
    async def main() -> None:
        updates = [chunk for _ in range(STREAMS) for chunk in _update()]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for chunk in islice(cycle(updates), size // MIB):
            writer.write(chunk)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    uvloop.run(main())


def _send_grpc(port: int, size: int) -> None:
    async def stream(update: list[bytes]) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
            call = channel.stream_stream("/Limits/Take")()
            for chunk in islice(cycle(update), size // MIB // STREAMS):
                await call.write(chunk)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

    async def main() -> None:
        await asyncio.gather(*(stream(update) for update in [_update() for _ in range(STREAMS)]))

    uvloop.run(main())
