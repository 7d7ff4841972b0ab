"""What is open between the controller and one learner; here the usual kind, a Tasks stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from metisfl_async.core.allowance import Allowance
from metisfl_async.core.ids import TaskId
from metisfl_async.core.messages import ControllerMessage, Counted, LearnerMessage, Question, TaskOffer
from metisfl_async.transport.base import Stream
from metisfl_async.transport.concurrency import first_of

__all__ = ["Connection", "OutboxConnection", "StreamConnection"]

ANSWERS = 8  #: messages and calls that a task or a question may bring, with those that are sent again
MOST_ANSWERS = 64  #: of all tasks and questions before, that did not bring so many
OUTBOX_SIZE = 64  #: messages; a learner is owed a handful at most, so a full outbox means that it does not read


class Connection(ABC):
    """What is open between the controller and one learner."""

    @abstractmethod
    def send(self, message: ControllerMessage) -> None:
        """Send a message, some time; it never blocks."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


class OutboxConnection(Connection):
    """A connection whose messages wait to be sent; what comes without being asked for is read at a bounded rate."""

    def __init__(self, unasked: Allowance) -> None:
        self._unasked = unasked
        self._outbox: asyncio.Queue[ControllerMessage] = asyncio.Queue(OUTBOX_SIZE)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, message: ControllerMessage) -> None:
        """Queue a message; it never blocks. If the outbox is full, the connection is closed."""
        if isinstance(message, TaskOffer | Question):
            self._unasked.earn(ANSWERS, MOST_ANSWERS)
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        """Make `run` end."""
        if not self._closed.done():
            self._closed.set_result(None)

    async def hold_back(self) -> None:
        """Wait, after a message that came, if more come than the learner may send."""
        if (wait_s := self._unasked.spend(asyncio.get_running_loop().time())) > 0:
            await asyncio.sleep(wait_s)

    async def next(self) -> list[ControllerMessage]:
        """Wait for messages that go together: the word that updates count goes with what is said next."""
        counted: list[TaskId] = []
        message = await self._outbox.get()
        while isinstance(message, Counted):
            counted.extend(message.task_ids)
            if self._outbox.empty():
                return [Counted(tuple(counted))]
            message = self._outbox.get_nowait()
        return [Counted(tuple(counted)), message] if counted else [message]

    @abstractmethod
    async def run(self, on_message: Callable[[LearnerMessage], None]) -> None:
        """Send what is queued and pass on what comes, until the learner ends it or `close` is called."""


class StreamConnection(OutboxConnection):
    """A learner's Tasks stream."""

    def __init__(self, stream: Stream[LearnerMessage, Sequence[ControllerMessage]], unasked: Allowance) -> None:
        super().__init__(unasked)
        self._stream = stream

    async def run(self, on_message: Callable[[LearnerMessage], None]) -> None:
        await first_of(self._send(), self._receive(on_message), self._closed)

    async def _send(self) -> None:
        while True:
            await self._stream.send(await self.next())

    async def _receive(self, on_message: Callable[[LearnerMessage], None]) -> None:
        while (message := await self._stream.receive()) is not None:
            on_message(message)
            await self.hold_back()  # what is not read slows the learner down
