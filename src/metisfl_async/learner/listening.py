"""The conversation of a learner that listens: what it says goes out, what it is told comes in, without a connection."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from metisfl_async.codec.frame import Assembly, Frame, Header, check_size
from metisfl_async.codec.pace import Pace
from metisfl_async.core.codecs import RAW
from metisfl_async.core.config import ClientParams
from metisfl_async.core.errors import ConnectionLost, Damaged, PeerTimeout, UnknownLearner
from metisfl_async.core.ids import ModelRef, Token, new_token
from metisfl_async.core.messages import (
    Accept,
    ControllerMessage,
    Evaluated,
    Failed,
    Heartbeat,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    Settled,
    UpdateReply,
)
from metisfl_async.core.model import Bytes, Model, allocate
from metisfl_async.learner.worker import Worker
from metisfl_async.transport.base import Stream
from metisfl_async.transport.grpc_link import GrpcLink

__all__ = ["ListeningLink"]

IDLE_S = 60.0  #: for a frame of a model that is set; who sends nothing for so long is not waited for


@dataclass(slots=True)
class _Told:
    """One message of the controller, and whether it was dealt with, once that is known."""

    messages: Sequence[ControllerMessage]
    was_dealt_with: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, was_dealt_with: bool) -> None:
        if not self.was_dealt_with.done():
            self.was_dealt_with.set_result(was_dealt_with)


class _Conversation:
    """What is a Tasks stream for a learner that dials."""

    def __init__(self, token: Token, address: str, report: Callable[[LearnerMessage], Awaitable[None]]) -> None:
        self.token = token
        self._address, self._report = address, report
        # Not bounded by itself: the controller waits for an answer before it says more.
        self._inbox: asyncio.Queue[_Told] = asyncio.Queue()
        self._in_hand: _Told | None = None
        self._latest: _Told | None = None
        self._latest_number = 0
        self._is_over = False

    async def send(self, message: LearnerMessage) -> None:
        if isinstance(message, Accept):
            return  # the answer to its delivery has said so
        await self._report(message)
        match message:  # the answer to the report means what the controller says on a stream
            case Heartbeat():
                self._inbox.put_nowait(_Told([Heartbeat()]))
            case Evaluated(task_id) | Failed(task_id):
                self._inbox.put_nowait(_Told([Settled(task_id)]))

    async def receive(self) -> Sequence[ControllerMessage]:
        """Wait for a message; whoever asks for the next one has dealt with the one before."""
        if self._in_hand is not None:
            self._in_hand.settle(True)
        self._in_hand = await self._inbox.get()
        return self._in_hand.messages

    async def take(self, number: int, messages: Sequence[ControllerMessage]) -> None:
        """Put what is said in the inbox and wait until it was dealt with; once, however often it is sent."""
        if self._latest is None or number > self._latest_number:
            self._latest, self._latest_number = _Told(messages), number
            self._inbox.put_nowait(self._latest)
        if self._is_over:
            self._latest.settle(False)
        if not await asyncio.shield(self._latest.was_dealt_with):
            raise ConnectionLost(self._address, "the learner has ended this conversation, to begin a new one")

    def end(self) -> None:
        self._is_over = True
        if self._in_hand is not None:
            self._in_hand.settle(False)
        while not self._inbox.empty():
            self._inbox.get_nowait().settle(False)


class ListeningLink:
    """Stands for the connection to its controller that a learner does not have: a `LearnerLink` and a `LearnerService`.

    Each call to the controller has a connection of its own. The secret, which is in the request to join and known to
    this object alone, lets the controller see that whoever asks is the one who listens at the address; the token that
    comes back lets the learner see that whoever calls is its controller.
    """

    def __init__(self, controller: ClientParams, worker: Worker) -> None:
        self.address = controller.address
        self.own_address = ""  #: set once the port is known
        self._controller, self._worker = controller, worker
        self._secret, self._pace = new_token(), Pace()
        self._joined: JoinReply | None = None
        self._conversation: _Conversation | None = None

    # --- to the controller -----------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> JoinReply:
        async with self._connected() as link:
            self._joined = await link.join(replace(request, address=self.own_address, secret=self._secret))
        return self._joined

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Stream[Sequence[ControllerMessage], LearnerMessage]]:
        assert self._joined is not None
        token = self._joined.token

        async def report(message: LearnerMessage) -> None:
            async with self._connected() as link:
                await link.report(token, message)

        conversation = self._conversation = _Conversation(token, self.own_address, report)
        try:
            yield conversation
        finally:
            conversation.end()
            self._conversation = None

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
        async with self._connected() as link:
            return await link.fetch_model(token, model, max_model_bytes, again, heard, codec=codec)

    async def train_done(self, token: Token, header: Header, update: Model) -> UpdateReply:
        async with self._connected() as link:
            return await link.upload(token, header, update)

    async def leave(self, token: Token) -> None:
        async with self._connected() as link:
            await link.leave(token)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[GrpcLink]:
        link = GrpcLink(self._controller, self._pace)
        try:
            yield link
        finally:
            await link.close()

    # --- from the controller ---------------------------------------------------------------------------------------

    async def confirm_join(self, secret: str) -> None:
        if not _equal(secret, self._secret):
            raise UnknownLearner(secret[:6] + "...")

    async def deliver(self, token: Token, number: int, messages: Sequence[ControllerMessage]) -> None:
        conversation = self._conversation
        if conversation is None or not _equal(token, conversation.token):
            raise UnknownLearner(token[:6] + "...")
        await conversation.take(number, messages)

    async def get_model(self, token: Token) -> Model:
        self._check(token)
        return await self._worker.get_weights()

    async def set_initial_model(self, token: Token, frames: AsyncIterator[Frame]) -> None:
        joined = self._check(token)
        header = await _next(frames)
        if not isinstance(header, Header):
            raise Damaged("stream", "the first frame is no header")
        check_size(header, joined.max_model_bytes)
        assembly = Assembly(header, allocate(header.manifest.size_bytes))
        while not assembly.is_complete:
            if (frame := await _next(frames)) is None:
                raise assembly.truncated()
            assembly.add(frame)
        await self._worker.set_weights(assembly.model.freeze())

    def _check(self, token: Token) -> JoinReply:
        if self._joined is None or not _equal(token, self._joined.token):
            raise UnknownLearner(token[:6] + "...")
        return self._joined


async def _next(frames: AsyncIterator[Frame]) -> Frame | None:
    try:
        async with asyncio.timeout(IDLE_S):
            return await anext(frames, None)
    except TimeoutError:
        raise PeerTimeout("the caller", f"nothing of the model came for {IDLE_S:g} s") from None


def _equal(given: str, known: str) -> bool:
    """Compare in a time that says nothing about how far they agree."""
    return hmac.compare_digest(given.encode(), known.encode())
