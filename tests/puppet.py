"""A learner moved by hand: speaks the protocol step by step over a real connection, so that tests can misbehave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice

import grpc.aio
import numpy as np
from xxhash import xxh3_128_digest

from metisfl_async import ClientParams, Controller, TerminationSignals
from metisfl_async.codec.frame import Frame, Header, encode, frames_of
from metisfl_async.core.federation.tasks import HeldTask
from metisfl_async.core.ids import FederationId, LearnerId, TaskId, Token
from metisfl_async.core.messages import (
    Accept,
    ControllerMessage,
    Hello,
    JoinRequest,
    LearnerMessage,
    StartRequest,
    TaskOffer,
    UpdateReply,
    Welcome,
)
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Model
from metisfl_async.transport.base import ControllerLink, Stream
from metisfl_async.transport.convert import GO_AHEAD, from_update_reply
from metisfl_async.transport.grpc_errors import ours
from metisfl_async.transport.grpc_link import GrpcLink


class Puppet:
    """One incarnation of a learner, joined and connected."""

    def __init__(
        self, link: GrpcLink, token: Token, stream: Stream[Sequence[ControllerMessage], LearnerMessage]
    ) -> None:
        self.link, self.token, self.stream = link, token, stream
        self._unread: deque[ControllerMessage] = deque()
        self.welcome: Welcome | None = None

    async def next(self) -> ControllerMessage | None:
        if not self._unread:
            async with asyncio.timeout(30):
                self._unread.extend(await self.stream.receive() or [])
        return self._unread.popleft() if self._unread else None

    async def task(self) -> TaskOffer:
        """Wait for a task and accept it."""
        while not isinstance(offer := await self.next(), TaskOffer):
            assert offer is not None
        await self.stream.send(Accept(offer.task_id))
        return offer

    def frames(
        self, offer: TaskOffer, arrays: Sequence[Array], metrics: Metrics | None = None, **metadata: float
    ) -> list[Frame]:
        """Make the frames of a good update."""
        model = Model.from_arrays(arrays)
        facts = {"num_training_examples": 1.0} | metadata
        task_id, federation_id = offer.task_id, offer.model.federation_id
        header = Header(
            "update",
            model.manifest,
            offer.model_version,
            task_id,
            metrics or {},
            dict(facts),
            federation_id,
            xxh3_128_digest(model.buffer.data),
        )
        return list(frames_of(header, model))

    async def push(self, frames: Iterable[Frame | bytes]) -> UpdateReply:
        """Send frames, or any bytes, as an update; the answer may come before the last of them."""
        call = self.upload()
        chunks = (frame if isinstance(frame, bytes) else encode(frame) for frame in frames)
        try:
            with ours(self.link.address):
                for first in islice(chunks, 1):
                    await call.write(first)
                    if (reply := await call.read()) != GO_AHEAD:
                        return from_update_reply(reply)
                reading = asyncio.create_task(call.read())
                with suppress(asyncio.InvalidStateError, grpc.aio.BaseError, grpc.aio.AioRpcError):  # it has ended
                    for chunk in chunks:
                        await call.write(chunk)
                    await call.done_writing()
                return from_update_reply(await reading)
        finally:
            call.cancel()

    def upload(self) -> grpc.aio.StreamStreamCall:
        """Begin an update, to be sent frame by frame."""
        caller = self.link._caller
        return caller.channel.stream_stream(caller.path("TrainDone"))(metadata=caller.metadata_with(self.token))


@asynccontextmanager
async def puppet(
    controller: Controller, learner_id: str, token: str = "", held: Sequence[tuple[str, bool]] = ()
) -> AsyncIterator[Puppet]:
    async with dialled(controller.client_params, learner_id, token, held) as of_learner:
        yield of_learner


@asynccontextmanager
async def dialled(
    params: ClientParams, learner_id: str, token: str = "", held: Sequence[tuple[str, bool]] = ()
) -> AsyncIterator[Puppet]:
    link = GrpcLink(params)
    try:
        reply = await link.join(JoinRequest(LearnerId(learner_id), Token(token)))
        async with link.tasks() as stream:
            await stream.send(Hello(reply.token, [HeldTask(TaskId(task_id), done) for task_id, done in held]))
            of_learner = Puppet(link, reply.token, stream)
            welcome = await of_learner.next()
            assert isinstance(welcome, Welcome)
            of_learner.welcome = welcome
            yield of_learner
    finally:
        await link.close()


FEDERATION = FederationId("f" * 32)


async def begun(link: ControllerLink, model: Model, *, num_learners: int = 1) -> None:
    """Start a federation under `FEDERATION` that begins with this model."""
    signals = TerminationSignals(federation_rounds=1)
    await link.set_initial_model(FEDERATION, model)
    await link.start_training(StartRequest(signals, num_learners, 0, None, FEDERATION, has_model=True))


def weights(value: float, size: int = 1) -> list[Array]:
    """What `federations.Adds` has."""
    return [np.full(size, value, np.float32), np.array(1, np.int64)]
