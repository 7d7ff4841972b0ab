"""What TLS costs updates that come in, beside plain TLS of the same event loop.

The same uploads as in `uploads.py`, from ten senders in a process of their own to a controller that receives, checks
and folds them: in the clear, over TLS, over TLS, in the clear; the means count. Before and after, one connection of
uvloop's TLS between the same two kinds of process carries bytes that nobody looks at.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

import uvloop
from processes import in_fresh_process
from tables import Columns, Run
from uploads import goodput

from metisfl_async import ServerParams
from metisfl_async.cli.certificates import make_certificates

MIB = 2**20
TIMEOUT_S = 120
Files: TypeAlias = tuple[str, ...]  #: the authority's certificate, the server's, and its key
TLS: Columns = {
    "parameters": ("parameters", ",d"),
    "clear_mb_s": ("TrainDone (MB/s)", ".0f"),
    "tls_mb_s": ("TrainDone over TLS (MB/s)", ".0f"),
    "raw_mb_s": ("plain TLS of uvloop (MB/s)", ".0f"),
    "tls_of_raw": ("over TLS / plain TLS", ".2f"),
    "tls_of_clear": ("over TLS / TrainDone", ".2f"),
}


class _Sink(asyncio.Protocol):
    def __init__(self, size: int, done: asyncio.Future[float]) -> None:
        self._left, self._done, self._start = size, done, 0.0

    def data_received(self, data: bytes) -> None:
        self._start = self._start or time.perf_counter()
        self._left -= len(data)
        if self._left == 0:
            self._done.set_result(time.perf_counter() - self._start)


def send(port: int, authority: str, size: int) -> None:
    """Send so many bytes over one connection."""

    async def main() -> None:
        context = ssl.create_default_context(cafile=authority)
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        source = memoryview(bytes(64 * MIB))  # of which each byte is read from memory, not from a cache
        for at in range(0, size, MIB):
            writer.write(source[at % len(source) :][:MIB])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    uvloop.run(main())


async def raw(files: Files, size: int) -> float:
    """Give the megabytes per second of one connection of uvloop's TLS."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[float] = loop.create_future()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files[1], files[2])
    server = await loop.create_server(lambda: _Sink(size, done), "localhost", 0, ssl=context)
    arguments = (server.sockets[0].getsockname()[1], files[0], size)
    child = multiprocessing.get_context("spawn").Process(target=send, args=arguments)
    async with asyncio.timeout(TIMEOUT_S), server:
        child.start()
        try:
            seconds = await done
            await asyncio.to_thread(child.join, TIMEOUT_S)
        finally:
            child.kill()
    return size / seconds / 1e6


def measured_raw(files: Files, size: int) -> float:
    return uvloop.run(raw(files, size))


def measured(parameters: int, rounds: int, files: Files | None) -> float:
    server = ServerParams("localhost", 0, *files) if files else ServerParams()
    return uvloop.run(goodput(parameters, rounds, generated=False, server=server))


def main() -> None:
    run = Run(__doc__)
    rounds, sizes, size = (3, [1_000_000], 64 * MIB) if run.is_quick else (6, [1_000_000, 10_000_000], 1024 * MIB)
    table = run.table("tls", TLS)
    with tempfile.TemporaryDirectory() as directory:
        make_certificates(Path(directory), ["server"], ["localhost"], 1, force=False)
        files: Files = tuple(str(Path(directory, name)) for name in ("ca.pem", "server.pem", "server.key"))
        for parameters in sizes:
            before = in_fresh_process(measured_raw, files, size)
            first, second, third, fourth = (
                in_fresh_process(measured, parameters, rounds, given) for given in (None, files, files, None)
            )
            raw_mb_s = (before + in_fresh_process(measured_raw, files, size)) / 2
            clear, over_tls = (first + fourth) / 2, (second + third) / 2
            table.add(
                parameters=parameters,
                clear_mb_s=clear,
                tls_mb_s=over_tls,
                raw_mb_s=raw_mb_s,
                tls_of_raw=over_tls / raw_mb_s,
                tls_of_clear=over_tls / clear,
            )
    run.end()


if __name__ == "__main__":
    main()
