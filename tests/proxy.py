"""A TCP proxy before a controller or a listening learner, for tests that need a bad or a slow network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from metisfl_async import ClientParams, Controller
from metisfl_async.transport.concurrency import first_of


class Proxy:
    """A TCP proxy whose connections can be cut, forgotten or slow to be made, and carry so many bytes a second."""

    def __init__(self, port: int, target: int, bytes_per_s: float | None = None) -> None:
        self.params = ClientParams("127.0.0.1", port)
        self.target = target
        self.bytes_per_s = bytes_per_s
        self.writers: set[asyncio.StreamWriter] = set()
        self.bytes_up = 0
        self.connections = 0
        self.answers_after_s = 0.0
        self.cut_after: int | None = None  #: bytes towards the target
        self.most_connections: int | None = None  #: all others are cut at once
        self._known: object = object()  #: what connections have that are not forgotten

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    def forget(self) -> None:
        """Carry nothing more over the connections that are there, without a word; new ones are as good as ever."""
        self._known = object()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await asyncio.sleep(self.answers_after_s)
            if self.most_connections is None or self.connections <= self.most_connections:
                await self._carry(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to the target, and carry bytes both ways until one side ends."""
        up = _socket(self.bytes_per_s)
        try:
            await asyncio.get_running_loop().sock_connect(up, ("127.0.0.1", self.target))
        except BaseException:
            up.close()
            raise
        up_reader, up_writer = await asyncio.open_connection(sock=up)
        self.writers |= {writer, up_writer}
        try:
            await first_of(self._pump(reader, up_writer, True), self._pump(up_reader, writer, False))
        finally:
            self.writers -= {writer, up_writer}
            up_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_up: bool) -> None:
        known = self._known
        while data := await source.read(2**16):
            if known is not self._known:
                continue
            self.bytes_up += len(data) * is_up
            if self.cut_after is not None and self.bytes_up > self.cut_after:
                self.cut_after = None
                self.cut()
                return
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def proxy_to(controller: Controller, bytes_per_s: float | None = None) -> AsyncIterator[Proxy]:
    async with proxy_to_port(controller.client_params.port, bytes_per_s) as proxy:
        yield proxy


@asynccontextmanager
async def proxy_to_port(target: int, bytes_per_s: float | None = None) -> AsyncIterator[Proxy]:
    proxy = Proxy(1, target, bytes_per_s)
    listening = _socket(bytes_per_s)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(proxy.handle, sock=listening)
    proxy.params = ClientParams("127.0.0.1", listening.getsockname()[1])
    async with server:
        yield proxy
        proxy.cut()


def _socket(bytes_per_s: float | None) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    if bytes_per_s is not None:  # else megabytes would lie in the kernel's buffers, and not wait for the link
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
    return made
