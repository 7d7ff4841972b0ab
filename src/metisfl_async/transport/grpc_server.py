"""Serves a `ControllerService` over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import grpc
import grpc.aio

from metisfl_async.codec.frame import UNASKED_BYTES, End, Frame
from metisfl_async.core.config import ServerParams
from metisfl_async.core.errors import ConnectionLost, Damaged, TooLarge
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.messages import ControllerMessage, LearnerMessage
from metisfl_async.transport import convert, convert_driver
from metisfl_async.transport.base import ControllerService, Download
from metisfl_async.transport.grpc_errors import theirs
from metisfl_async.transport.grpc_host import (
    EMPTY,
    Context,
    GrpcHost,
    drain,
    frames_from,
    hearing_out,
    unary,
    unary_stream,
    write_model,
)
from metisfl_async.transport.grpc_options import SERVICE
from metisfl_async.transport.reading import frames_in

__all__ = ["GrpcServer"]

NEWS_PAUSE_S = 0.01  #: between two messages to a driver; what happens meanwhile goes in one


class _ServerStream:
    """The controller's end of a Tasks stream."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def send(self, message: Sequence[ControllerMessage]) -> None:
        try:
            await self._context.write(convert.controller_message(message))
        except (grpc.aio.BaseError, grpc.RpcError) as error:
            raise ConnectionLost(self._context.peer(), "the learner is gone") from error

    async def receive(self) -> LearnerMessage | None:
        data = await self._context.read()
        return None if data is grpc.aio.EOF else convert.from_learner_message(data)


class _UpdateCall:
    """The controller's end of a TrainDone: a small update comes at once, a large one when it is told to go ahead."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waits: bool | None = None  # for the word to go ahead; not known before the first chunk
        self.has_ended = False

    async def frames(self) -> AsyncGenerator[Frame]:
        while (chunk := await self._context.read()) is not grpc.aio.EOF:
            frames = await frames_in(chunk)
            self.has_ended = isinstance(frames[-1], End)
            if self._waits is None:
                self._waits = len(frames) == 1
                if len(chunk) > UNASKED_BYTES and not self._waits:
                    raise TooLarge("Chunk", f"{len(chunk)} bytes before 'send'; at most {UNASKED_BYTES}")
                if not self.has_ended and not self._waits:
                    raise Damaged("Chunk", "neither the header alone, which waits for 'send', nor a whole update")
            for frame in frames:
                yield frame

    async def go_ahead(self) -> None:
        if self._waits:
            await self._context.write(convert.GO_AHEAD)


class GrpcServer(GrpcHost):
    """Serves a controller on a port."""

    def __init__(self, service: ControllerService, params: ServerParams, *, reflection: bool = False) -> None:
        super().__init__(SERVICE, _Handlers(service).table(), params, reflection=reflection)


class _Handlers:
    """One method for each RPC: bytes to our messages, the service, and back."""

    def __init__(self, service: ControllerService) -> None:
        self._service = service

    def table(self) -> dict[str, grpc.RpcMethodHandler]:
        service = self._service
        return {
            "JoinFederation": unary("join", service.join, convert.from_join_request, convert.join_reply),
            "LeaveFederation": unary("leave", service.leave, convert.from_leave),
            "StartTraining": unary("start_training", service.start_training, convert_driver.from_start_request),
            "GetStatus": unary("status", lambda _: service.status(), _ignore, convert_driver.status),
            "StopTraining": unary(
                "stop_training", lambda asked: service.stop_training(*asked), convert_driver.from_stop
            ),
            "ShutDown": unary("shut_down", lambda asked: service.shut_down(*asked), convert_driver.from_shut_down),
            "Report": unary("report", lambda said: service.report(*said), convert.from_report),
            "Tasks": grpc.stream_stream_rpc_method_handler(self.tasks),
            "FetchModel": grpc.unary_stream_rpc_method_handler(self.fetch_model),
            "GetModel": grpc.unary_stream_rpc_method_handler(self.get_model),
            "TrainDone": grpc.stream_stream_rpc_method_handler(self.train_done),
            "SetInitialModel": grpc.stream_unary_rpc_method_handler(self.set_initial_model),
            "WatchEvents": unary_stream("watch_events", self._news, bytes),
            "GetLogs": unary_stream("get_logs", self._logs, convert_driver.record),
        }

    async def tasks(self, _: AsyncIterator[bytes], context: Context) -> None:
        async with theirs(context, "tasks"):
            await self._service.tasks(_ServerStream(context))

    async def fetch_model(self, request: bytes, context: Context) -> None:
        async with theirs(context, "fetch_model"):
            await write_model(await self._service.fetch_model(*convert.from_fetch_model(request)), context)

    async def get_model(self, request: bytes, context: Context) -> None:
        async with theirs(context, "get_model"):
            publication = await self._service.get_model(convert_driver.from_federation(request))
            await write_model(Download(lambda: publication, _ignore), context)

    async def train_done(self, _: AsyncIterator[bytes], context: Context) -> None:
        update = _UpdateCall(context)
        async with theirs(context, "train_done"):
            async with aclosing(update.frames()) as frames:
                reply = await self._service.train_done(frames, update.go_ahead)
            await context.write(convert.update_reply(reply))
            if not update.has_ended:
                await drain(context)  # whoever is still sending hears the answer only if the call does not end under it

    async def _news(self, request: bytes) -> AsyncIterator[bytes]:
        async with aclosing(self._service.watch_events(*convert_driver.from_watch(request))) as news:
            async for events in news:
                for message in convert_driver.events(events):
                    yield message
                await asyncio.sleep(NEWS_PAUSE_S)

    def _logs(self, request: bytes) -> AsyncGenerator[RoundRecord, None]:
        return self._service.get_logs(convert_driver.from_federation(request))

    async def set_initial_model(self, _: AsyncIterator[bytes], context: Context) -> bytes:
        async with theirs(context, "set_initial_model"), hearing_out(context), aclosing(frames_from(context)) as frames:
            await self._service.set_initial_model(frames)
        return EMPTY


def _ignore(_: object) -> None:
    """Take what is not needed."""
