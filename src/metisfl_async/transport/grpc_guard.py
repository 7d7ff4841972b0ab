"""Keeps gRPC's server from writing into memory that is free already, when all tasks of a loop are cancelled at once."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress

import grpc.aio

__all__ = ["ServerGuard"]

GRACE_S = 0.5  #: for calls under way at a server that nobody stops; whoever serves them is being cancelled


class ServerGuard(asyncio.Task[None]):
    """A task beside a server: whoever cancels it tells the server to stop in that very moment.

    gRPC's core fills a piece of memory with the next call, and that memory belongs to a coroutine of grpcio's server.
    `asyncio.run` cancels all tasks that are left after its main one. So that coroutine ends and its memory is freed,
    but the core still writes there, with the next call or when it is told that the server stops: a segmentation fault,
    now or later. A core that has been told writes no more; and all tasks are cancelled before the first of them goes
    on, so what `cancel` does here comes in time.

    It keeps the server for as long as it runs, and stops it when its owner is dropped without a `stop`.
    """

    def __init__(self, server: grpc.aio.Server, owner: object) -> None:
        self._server = server
        self._is_told = False
        loop = asyncio.get_running_loop()
        self._has_stopped = loop.create_future()
        super().__init__(self._watch(), loop=loop, name="grpc-server-guard")
        self._when_dropped = weakref.finalize(owner, self._drop)
        self._when_dropped.atexit = False

    async def stop(self, grace_s: float) -> None:
        """Stop the server, and end; calls under way get so many seconds."""
        self._tell()
        try:
            await self._server.stop(grace_s)
        finally:
            self._when_dropped.detach()
            if not self._has_stopped.done():
                self._has_stopped.set_result(None)
        await asyncio.wait([self])

    def cancel(self, msg: object = None) -> bool:
        self._tell()
        return super().cancel(msg)

    async def _watch(self) -> None:
        try:
            await self._has_stopped
        except asyncio.CancelledError:
            await self._server.stop(GRACE_S)
            raise

    def _tell(self) -> None:
        """Tell the core that the server stops, whether or not the loop runs; calls under way go on."""
        if not self._is_told:
            self._is_told = True
            stop = self._server.stop(GRACE_S)
            with suppress(StopIteration):  # it never started
                stop.send(None)  # as far as its first wait; the core is told before that
            stop.close()

    def _drop(self) -> None:
        """Stop, from any thread."""
        try:
            self.get_loop().call_soon_threadsafe(self.cancel)
        except RuntimeError:  # the loop is closed; nobody serves any more
            self._tell()
