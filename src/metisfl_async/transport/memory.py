"""The link to a controller in the same process: no port, no serialisation.

Global models are shared, read-only; updates go through the same frames and staging as over the network, as views.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Generic, TypeVar

from metisfl_async.codec.frame import Data, Frame, Header, frames_of
from metisfl_async.core.access import LOCAL
from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import ConnectionLost, MetisError
from metisfl_async.core.federation.events import Event
from metisfl_async.core.federation.inputs import CentralEvaluation
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, Token
from metisfl_async.core.messages import (
    Answer,
    AskRequest,
    ControllerMessage,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    StartRequest,
    Status,
    UpdateReply,
)
from metisfl_async.core.model import Bytes, Model, allocate
from metisfl_async.transport.base import ControllerService, Stream
from metisfl_async.transport.concurrency import end_all

__all__ = ["MemoryLink", "frames_in_memory", "go_ahead"]

ADDRESS = "in this process"
QUEUE_SIZE = 16  #: messages; the sender waits when so many are unread
COPY_BYTES = 4 * 2**20  #: about a millisecond

In = TypeVar("In")
Out = TypeVar("Out")


class _Pipe(Generic[In]):
    """One direction of a conversation: a bounded queue that can be ended, with an error or without."""

    def __init__(self) -> None:
        self._messages: deque[In] = deque()
        self._changed = asyncio.Event()  # set for a moment only, for those who wait
        self._is_ended = False
        self._error: MetisError | None = None

    async def put(self, message: In) -> None:
        while not self._is_ended and len(self._messages) >= QUEUE_SIZE:
            await self._changed.wait()
        if self._is_ended:
            raise ConnectionLost(ADDRESS, "the other side has ended the conversation")
        self._messages.append(message)
        self._wake()

    async def get(self) -> In | None:
        while not self._is_ended and not self._messages:
            await self._changed.wait()
        if self._messages:
            self._wake()
            return self._messages.popleft()
        if self._error is not None:
            raise self._error
        return None

    def end(self, error: MetisError | None = None) -> None:
        self._is_ended, self._error = True, self._error or error
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed.clear()


class _MemoryStream(Generic[In, Out]):
    def __init__(self, inbox: _Pipe[In], outbox: _Pipe[Out]) -> None:
        self._inbox, self._outbox = inbox, outbox

    async def send(self, message: Out) -> None:
        await self._outbox.put(message)

    async def receive(self) -> In | None:
        return await self._inbox.get()


class MemoryLink:
    """Reaches a controller of this process and event loop.

    `passing` is awaited before each frame of a model that goes up, with the bytes of the model in it.
    """

    def __init__(self, service: ControllerService) -> None:
        self.address = ADDRESS
        self.passing: Callable[[int], Awaitable[object]] = _at_once
        self._service = service

    async def join(self, request: JoinRequest) -> JoinReply:
        return await self._service.join(LOCAL, request)

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Stream[Sequence[ControllerMessage], LearnerMessage]]:
        up: _Pipe[LearnerMessage] = _Pipe()
        down: _Pipe[Sequence[ControllerMessage]] = _Pipe()

        async def serve() -> None:
            error: MetisError | None = None
            try:
                await self._service.tasks(LOCAL, _MemoryStream[LearnerMessage, Sequence[ControllerMessage]](up, down))
            except MetisError as raised:
                error = raised
            finally:
                up.end()
                down.end(error)

        server = asyncio.create_task(serve(), name="tasks-in-memory")
        try:
            yield _MemoryStream[Sequence[ControllerMessage], LearnerMessage](down, up)
        finally:
            await end_all([server])

    async def fetch_model(
        self,
        token: Token,
        model: ModelRef,
        max_model_bytes: int,
        again: Bytes | None,
        heard: Callable[[], object],
        *,
        codec: str = RAW,
    ) -> Model:
        download = await self._service.fetch_model(LOCAL, token, model)  # it is shared, whatever its codec
        fetched = download.begin().model
        download.moved(fetched.manifest.size_bytes)
        return fetched

    async def train_done(self, token: Token, header: Header, update: Model) -> UpdateReply:
        async with aclosing(frames_in_memory(header, update, self.passing)) as frames:
            return await self._service.train_done(LOCAL, token, frames, go_ahead)

    async def leave(self, token: Token) -> None:
        await self._service.leave(LOCAL, token)

    async def status(self) -> Status:
        return await self._service.status(LOCAL)

    async def set_initial_model(self, federation_id: FederationId, model: Model) -> None:
        header = Header("global", model.manifest, 0, federation_id=federation_id)
        async with aclosing(frames_in_memory(header, model, self.passing)) as frames:
            await self._service.set_initial_model(LOCAL, frames)

    async def start_training(self, request: StartRequest) -> None:
        await self._service.start_training(LOCAL, request)

    async def watch_events(
        self, federation_id: FederationId, seen: int = 0, run: str = ""
    ) -> AsyncGenerator[Event, None]:
        async with aclosing(self._service.watch_events(LOCAL, federation_id, seen, run)) as batches:
            try:
                async for events in batches:
                    for told in events:
                        yield told.event
            except ConnectionLost:
                return  # it was closed; if it is opened again, it is another one

    async def get_logs(self, federation_id: FederationId) -> AsyncGenerator[RoundRecord, None]:
        async with aclosing(self._service.get_logs(LOCAL, federation_id)) as records:
            async for record in records:
                yield record
                await asyncio.sleep(0)  # each was read from a text that may have a megabyte, and there may be thousands

    async def get_model(
        self, federation_id: FederationId, heard: Callable[[], object] = lambda: None, *, best: bool = False
    ) -> Model:
        model = (await self._service.get_model(LOCAL, federation_id, best)).begin().model
        buffer = allocate(len(model.buffer))
        for start in range(0, len(buffer), COPY_BYTES):
            buffer[start : start + COPY_BYTES] = model.buffer[start : start + COPY_BYTES]
            await asyncio.sleep(0)
        return Model(model.manifest, buffer, model.version)

    async def ask(self, request: AskRequest) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
        async with aclosing(self._service.ask(LOCAL, request)) as answers:
            async for answer in answers:
                yield answer

    async def evaluated(self, federation_id: FederationId, report: CentralEvaluation) -> None:
        await self._service.evaluated(LOCAL, federation_id, report)

    async def stop_training(self, federation_id: FederationId, reason: str) -> None:
        await self._service.stop_training(LOCAL, federation_id, reason)

    async def shut_down(self, federation_id: FederationId, keep_running: bool = False) -> None:
        await self._service.shut_down(LOCAL, federation_id, keep_running)

    @property
    def connection(self) -> object:
        return self

    async def renew(self, connection: object | None = None) -> None:
        """Do nothing: there is no connection."""

    async def close(self) -> None:
        """Do nothing: there is no connection."""


async def go_ahead() -> None:
    """Nothing needs to be told: the frames are drawn, not pushed."""


async def _at_once(size_bytes: int) -> None:
    """Let others have their turn: the receiver copies and hashes a chunk at a time."""
    if size_bytes:
        await asyncio.sleep(0)


async def frames_in_memory(
    header: Header, model: Model, passing: Callable[[int], Awaitable[object]] = _at_once
) -> AsyncGenerator[Frame, None]:
    """Give a model's frames, each once so many bytes may have passed."""
    for frame in frames_of(header, model):
        await passing(len(frame.payload) if isinstance(frame, Data) else 0)
        yield frame
