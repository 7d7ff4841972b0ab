"""HTTP/2 by hand, for what no library would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from metisfl_async import ClientParams
from metisfl_async.transport.grpc_options import SERVICE

__all__ = [
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "HEADERS",
    "PING",
    "PREFACE",
    "RESET",
    "SETTINGS",
    "Http2",
    "frame",
    "http2",
    "request",
]

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def request(method: str) -> bytes:
    """Make the headers of a call, each as a literal."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{SERVICE}/{method}",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )


class Http2:
    """A connection; sees which streams the other side has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.is_ready = asyncio.Event()  #: once it has the other side's settings, and has said so
        self.ended: set[int] = set()  #: streams
        self.is_closed = False
        self.changed = asyncio.Event()

    async def read(self) -> None:
        """Read frames until the connection ends."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self.writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
                    self.is_ready.set()
                elif kind == RESET or (kind in (DATA, HEADERS) and flags & END_STREAM):
                    self.ended.add(stream)
                elif kind == GOAWAY:
                    break
                self.changed.set()
        self.is_closed = True
        self.changed.set()

    async def until_ended(self, streams: set[int]) -> str:
        """Wait until the other side has ended these streams, or the connection."""
        while not self.is_closed and not streams <= self.ended:
            self.changed.clear()
            await self.changed.wait()
        return "closed" if self.is_closed else f"{len(streams)} x ended"


@asynccontextmanager
async def http2(params: ClientParams) -> AsyncIterator[Http2]:
    reader, writer = await asyncio.open_connection(params.hostname, params.port)
    connection = Http2(reader, writer)
    reading = asyncio.create_task(connection.read())
    writer.write(PREFACE + frame(SETTINGS))
    try:
        yield connection
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.close()
