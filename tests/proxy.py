"""A TCP proxy before a controller or a listening learner, for tests that need a bad network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from metisfl_async import ClientParams, Controller


class Proxy:
    """A TCP proxy whose connections can be cut, or slow to be made."""

    def __init__(self, port: int, target: int) -> None:
        self.params = ClientParams("127.0.0.1", port)
        self.target = target
        self.writers: set[asyncio.StreamWriter] = set()
        self.bytes_up = 0
        self.connections = 0
        self.answers_after_s = 0.0
        self.cut_after: int | None = None  #: bytes towards the target

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await asyncio.sleep(self.answers_after_s)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, up_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_up: bool) -> None:
            while data := await source.read(2**16):
                self.bytes_up += len(data) * is_up
                if self.cut_after is not None and self.bytes_up > self.cut_after:
                    self.cut_after = None
                    self.cut()
                    return
                sink.write(data)
                await sink.drain()

        try:
            await asyncio.gather(pump(reader, up_writer, True), pump(up_reader, writer, False))
        except OSError:
            pass
        finally:
            writer.transport.abort()
            up_writer.transport.abort()


@asynccontextmanager
async def proxy_to(controller: Controller) -> AsyncIterator[Proxy]:
    async with proxy_to_port(controller.client_params.port) as proxy:
        yield proxy


@asynccontextmanager
async def proxy_to_port(target: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(1, target)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.params = ClientParams("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server:
        yield proxy
        proxy.cut()
