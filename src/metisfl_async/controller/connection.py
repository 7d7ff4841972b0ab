"""What is open between the controller and one learner; here the usual kind, a Tasks stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from metisfl_async.core.messages import ControllerMessage, LearnerMessage
from metisfl_async.transport.base import Stream
from metisfl_async.transport.concurrency import first_of

__all__ = ["Connection", "StreamConnection"]

OUTBOX_SIZE = 64  #: messages; a learner is owed a handful at most, so a full outbox means that it does not read


class Connection(ABC):
    """What is open between the controller and one learner. Sending never waits: who does not take it in loses it."""

    def __init__(self) -> None:
        self._outbox: asyncio.Queue[ControllerMessage] = asyncio.Queue(OUTBOX_SIZE)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, message: ControllerMessage) -> None:
        """Queue a message."""
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        """Make `run` end."""
        if not self._closed.done():
            self._closed.set_result(None)

    @abstractmethod
    async def run(self, on_message: Callable[[LearnerMessage], None]) -> None:
        """Send what is queued and pass on what comes, until the learner ends it or `close` is called."""


class StreamConnection(Connection):
    """A learner's Tasks stream."""

    def __init__(self, stream: Stream[LearnerMessage, ControllerMessage]) -> None:
        super().__init__()
        self._stream = stream

    async def run(self, on_message: Callable[[LearnerMessage], None]) -> None:
        await first_of(self._send(), self._receive(on_message), self._closed)

    async def _send(self) -> None:
        while True:
            await self._stream.send(await self._outbox.get())

    async def _receive(self, on_message: Callable[[LearnerMessage], None]) -> None:
        while (message := await self._stream.receive()) is not None:
            on_message(message)
