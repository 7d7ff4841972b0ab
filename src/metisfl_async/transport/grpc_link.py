"""The link to a controller over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import Generic, Self, TypeVar

import grpc
import grpc.aio

from metisfl_async.codec.frame import UNASKED_BYTES, End, Header, bundles_of, digesting, encode
from metisfl_async.codec.pace import Pace
from metisfl_async.core.codecs import RAW
from metisfl_async.core.config import ClientParams
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.federation.events import Event
from metisfl_async.core.federation.inputs import CentralEvaluation
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, Token
from metisfl_async.core.messages import (
    OWN_CONNECTION_BYTES,
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
from metisfl_async.core.model import Bytes, Model
from metisfl_async.transport import convert, convert_driver
from metisfl_async.transport.base import Closable, Stream
from metisfl_async.transport.concurrency import first_of
from metisfl_async.transport.grpc_caller import Answers, GrpcCaller, until_begun
from metisfl_async.transport.grpc_certificates import FreshParams
from metisfl_async.transport.grpc_options import SERVICE
from metisfl_async.transport.handshake import explaining
from metisfl_async.transport.reading import in_turns

__all__ = ["GrpcLink"]

STILL_S = 5.0  #: without getting further, an upload is given up that is older than its learner's connection
CONNECT_S = 3.0  #: on a slow link that is full, or where a controller may open no more files, it takes longer

T = TypeVar("T")


class _ClientStream:
    """A learner's end of a Tasks stream."""

    def __init__(self, caller: GrpcCaller, call: grpc.aio.StreamStreamCall) -> None:
        self._caller, self._call = caller, call

    async def send(self, message: LearnerMessage) -> None:
        with self._caller.ours():
            try:
                await self._call.write(convert.learner_message(message))
            except asyncio.InvalidStateError as error:  # the call has ended; reading says why
                raise ConnectionLost(self._caller.address, "the call has ended") from error

    async def receive(self) -> Sequence[ControllerMessage] | None:
        with self._caller.ours():
            data = await self._call.read()
        return None if data is grpc.aio.EOF else convert.from_controller_message(data)


class _News(Generic[T]):
    """What a call tells, one by one. Unlike a generator, it can be dropped at any time."""

    def __init__(self, begin: Callable[[], Awaitable[Answers]], read: Callable[[bytes], Iterable[T]]) -> None:
        self._begin, self._read = begin, read
        self._answers: Answers | None = None
        self._told: deque[T] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._told:
            if self._answers is None:
                self._answers = await self._begin()
            self._told.extend(self._read(await anext(self._answers)))
        return self._told.popleft()

    async def aclose(self) -> None:
        if self._answers is not None:
            await self._answers.aclose()


class GrpcLink:
    """Reaches a controller at an address; one connection, made when it is first needed and made again by itself.

    A proxy or router may forget a connection without a word, and gRPC goes on using it until its pings are missed. So
    whoever joins again, as is done after a break, dials anew; the root certificate is read again then.

    A large update has another, for as long as it is on its way. On a connection on which much was received, gRPC keeps
    about a megabyte for the next time: with a thousand learners, the controller would have a gigabyte of that. The
    controller says what is large: while it has few learners, that is more. It is not so on a slow link, where
    heartbeats would wait for what gRPC has taken of the update.
    """

    def __init__(self, params: ClientParams, pace: Pace | None = None) -> None:
        self.address = params.address
        self._params = FreshParams(params)
        self._caller = GrpcCaller(self._params.read(), SERVICE, pace)
        self._others: set[GrpcCaller] = set()  # of updates on their way
        self._renewed_at = 0.0  # what was forgotten may be forgotten of other connections, too
        self._own_connection_bytes = OWN_CONNECTION_BYTES
        self._has_joined = self._is_closed = False

    @property
    def connection(self) -> object:
        return self._caller

    async def renew(self, connection: object | None = None) -> None:
        """Drop the connection: calls under way on it end with `ConnectionLost`, and the next one dials anew."""
        if self._is_closed or (connection is not None and connection is not self._caller):
            return
        old, self._caller = self._caller, GrpcCaller(self._params.read(), SERVICE, self._caller.pace)
        self._renewed_at = time.monotonic()
        await old.give_up()

    def _explaining(self) -> AbstractAsyncContextManager[None]:
        """Around a call that may be the first: say why TLS fails, if it does."""
        return nullcontext() if self._is_closed else explaining(self._params.given)

    async def join(self, request: JoinRequest) -> JoinReply:
        """Join; from the second time on, over a new connection."""
        if self._has_joined:
            await self.renew()
        self._has_joined = True
        async with self._explaining():
            reply = convert.from_join_reply(await self._caller.ask("JoinFederation", convert.join_request(request)))
        self._own_connection_bytes = reply.own_connection_bytes
        return replace(reply, max_model_bytes=min(reply.max_model_bytes, self._params.given.max_model_bytes))

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Stream[Sequence[ControllerMessage], LearnerMessage]]:
        caller = self._caller
        with caller.ours():
            call = caller.channel.stream_stream(caller.path("Tasks"))(metadata=caller.metadata)
        try:
            yield _ClientStream(caller, call)
        finally:
            call.cancel()

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
        request = convert.fetch_model((token, model), codec)
        return await self._caller.read_model("FetchModel", request, max_model_bytes, again, heard, codec=codec)

    async def train_done(self, token: Token, header: Header, update: Model) -> UpdateReply:
        """Send an update: a large one over a connection of its own, if one can be had soon."""
        most = self._own_connection_bytes if self._caller.pace.is_quick else OWN_CONNECTION_BYTES
        if update.manifest.size_bytes < most:
            return await self.upload(token, header, update)
        other = GrpcCaller(self._params.read(), SERVICE, self._caller.pace)
        self._others.add(other)
        try:
            is_there = await other.connects_within(CONNECT_S)
            if not is_there:
                return await self.upload(token, header, update)
            uploading = asyncio.ensure_future(self.upload(token, header, update, other))
            await first_of(uploading, self._until_forgotten(other))
            return await uploading
        finally:
            self._others.discard(other)
            await other.close()

    async def _until_forgotten(self, other: GrpcCaller) -> None:
        """End once a connection stands still since the main one was made anew: it was probably forgotten as well."""
        began_at = time.monotonic()
        while True:
            await asyncio.sleep(STILL_S / 4)
            if self._renewed_at > began_at and time.monotonic() - max(self._renewed_at, other.moved_at) > STILL_S:
                raise ConnectionLost(self.address, "the upload stands still since the connection was made anew")

    async def upload(self, token: Token, header: Header, update: Model, over: GrpcCaller | None = None) -> UpdateReply:
        """Send the header, wait for room, send the rest; or all at once, if it is small."""
        caller = over or self._caller
        header = replace(header, content=await in_turns(digesting(update)))
        pace = caller.pace
        with caller.ours():
            call = caller.channel.stream_stream(caller.path("TrainDone"))(metadata=caller.metadata_with(token))

        async def send(chunk: bytes) -> None:
            with pace.sending(chunk):
                await call.write(chunk)
            caller.moved_at = time.monotonic()

        try:
            with caller.ours():
                await until_begun(call)
                bundles = bundles_of(header, update, pace)
                first = next(bundles)
                is_small = update.manifest.size_bytes <= UNASKED_BYTES and isinstance(first[-1], End)
                if is_small and len(chunk := encode(*first)) <= UNASKED_BYTES:
                    await send(chunk)
                else:
                    await send(encode(first.pop(0)))
                    if (reply := await self._reply(call)) != convert.GO_AHEAD:
                        return convert.from_update_reply(reply)
                    for frames in chain([first] if first else [], bundles):
                        await send(encode(*frames))
                return convert.from_update_reply(await self._reply(call))  # the end frame says that nothing follows
        except asyncio.InvalidStateError as error:  # it ended while we were writing
            raise ConnectionLost(self.address, "the controller broke off the upload") from error
        finally:
            call.cancel()

    async def _reply(self, call: grpc.aio.StreamStreamCall) -> bytes:
        reply = await call.read()
        if reply is grpc.aio.EOF:
            raise ConnectionLost(self.address, "the controller ended the upload without an answer")
        return bytes(reply)

    async def report(self, token: Token, message: LearnerMessage) -> None:
        """Say one thing without a Tasks stream, as a learner does that listens."""
        await self._caller.ask("Report", convert.report((token, message)))

    async def leave(self, token: Token) -> None:
        await self._caller.ask("LeaveFederation", convert.leave(token))

    async def status(self) -> Status:
        async with self._explaining():
            return convert_driver.from_status(await self._caller.ask("GetStatus", b""))

    async def set_initial_model(self, federation_id: FederationId, model: Model) -> None:
        header = Header("global", model.manifest, 0, federation_id=federation_id)
        await self._caller.send_model("SetInitialModel", header, model)

    async def start_training(self, request: StartRequest) -> None:
        await self._caller.ask("StartTraining", convert_driver.start_request(request))

    def watch_events(self, federation_id: FederationId, seen: int = 0, run: str = "") -> Closable[Event]:
        async def begin() -> Answers:
            return self._caller.stream("WatchEvents", convert_driver.watch((federation_id, seen, run)))

        return _News(begin, convert_driver.from_events)

    def get_logs(self, federation_id: FederationId) -> Closable[RoundRecord]:
        async def begin() -> Answers:
            return self._caller.stream("GetLogs", convert_driver.federation(federation_id))

        return _News(begin, lambda data: [convert_driver.from_record(data)])

    async def get_model(
        self, federation_id: FederationId, heard: Callable[[], object] = lambda: None, *, best: bool = False
    ) -> Model:
        most, request = self._params.given.max_model_bytes, convert_driver.get_model((federation_id, best))
        return await self._caller.read_model("GetModel", request, most, heard=heard)

    def ask(self, request: AskRequest) -> Closable[tuple[LearnerId, Answer]]:
        async def begin() -> Answers:
            return self._caller.stream("Ask", convert_driver.ask(request))

        return _News(begin, lambda data: [convert_driver.from_answer(data)])

    async def evaluated(self, federation_id: FederationId, report: CentralEvaluation) -> None:
        await self._caller.ask("ReportEvaluation", convert_driver.evaluation((federation_id, report)))

    async def stop_training(self, federation_id: FederationId, reason: str) -> None:
        await self._caller.ask("StopTraining", convert_driver.stop((federation_id, reason)))

    async def shut_down(self, federation_id: FederationId, keep_running: bool = False) -> None:
        await self._caller.ask("ShutDown", convert_driver.shut_down((federation_id, keep_running)), timeout_s=None)

    async def close(self) -> None:
        self._is_closed = True
        for caller in (self._caller, *self._others):
            await caller.close()
