"""What the machine can do at best: one plain uvloop TCP connection between two processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import time

import uvloop

__all__ = ["raw_tcp"]


class Sink(asyncio.BufferedProtocol):
    def __init__(self, done: asyncio.Future[tuple[int, float]]) -> None:
        self.buffer, self.received, self.done = bytearray(2**20), 0, done
        self.started = time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.started = time.perf_counter()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes

    def eof_received(self) -> None:
        self.done.set_result((self.received, time.perf_counter() - self.started))


def _send(port: int, size: int) -> None:
    async def main() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        chunk = bytes(2**20)
        for _ in range(size // len(chunk)):
            writer.write(chunk)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    uvloop.run(main())


async def raw_tcp(size: int = 2**31) -> float:
    """Megabytes per second through one connection between two processes."""
    done: asyncio.Future[tuple[int, float]] = asyncio.get_running_loop().create_future()
    server = await asyncio.get_running_loop().create_server(lambda: Sink(done), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    child = multiprocessing.get_context("spawn").Process(target=_send, args=(port, size))
    child.start()
    received, seconds = await done
    server.close()
    child.join()
    return received / seconds / 1e6
