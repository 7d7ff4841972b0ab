"""The link between a learner and the controllers that it is checked with: one address, whoever is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import TransportError
from metisfl_async.transport.concurrency import first_of

__all__ = ["Link", "link_at"]

MOST = 2**16  #: bytes that are carried at one time


class Link:
    """Carries bytes to the controller of the time, and breaks when it is told to."""

    def __init__(self) -> None:
        self.target: int | None = None  #: the controller's port on this machine; None: nobody is there
        self.bytes_up = 0  #: from the learner
        self._cut_at: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections, as a network does."""
        for writer in self._writers:
            writer.transport.abort()

    def cut_after(self, size_bytes: int) -> None:
        """Break all connections once the learner has sent so many bytes more."""
        self._cut_at = self.bytes_up + size_bytes

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection of the learner's."""
        self._writers.add(writer)
        try:
            if self.target is not None:
                with suppress(OSError):
                    await self._carry(reader, writer, self.target)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.add(up_writer)
        try:
            await first_of(self._pump(reader, up_writer, is_up=True), self._pump(up_reader, writer, is_up=False))
        finally:
            self._writers.discard(up_writer)
            up_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_up: bool) -> None:
        while data := await source.read(MOST):
            self.bytes_up += len(data) * is_up
            if self._cut_at is not None and self.bytes_up >= self._cut_at:
                self._cut_at = None
                self.cut()
                return
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def link_at(host: str, port: int) -> AsyncIterator[tuple[Link, int]]:
    """Listen there, and give the port, too: 0 asks for a free one."""
    integer("port", port, least=0, most=65535)
    link = Link()
    try:
        server = await asyncio.start_server(link.handle, host, port)
    except OSError as error:
        raise TransportError(f"{host}:{port}", f"cannot listen there ({error.strerror or error})") from error
    try:
        yield link, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        link.cut()
        await server.wait_closed()
