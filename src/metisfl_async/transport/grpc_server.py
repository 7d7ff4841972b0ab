"""Serves a `ControllerService` over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing
from functools import partial

import grpc
import grpc.aio

from metisfl_async.codec.frame import UNASKED_BYTES, End, Frame
from metisfl_async.core.access import Caller
from metisfl_async.core.config import ServerParams
from metisfl_async.core.errors import ConnectionLost, Damaged, TooLarge
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.messages import Answer, ControllerMessage, LearnerMessage
from metisfl_async.transport import convert, convert_driver
from metisfl_async.transport.base import ControllerService
from metisfl_async.transport.grpc_host import (
    EMPTY,
    Context,
    GrpcHost,
    Method,
    drain,
    frames_from,
    hearing_out,
    token_of,
    unary,
    unary_stream,
    write_model,
)
from metisfl_async.transport.grpc_options import SERVICE
from metisfl_async.transport.reading import OneAtATime, frames_in

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

    def __init__(self, context: Context, read: Callable[[Generator[None, None, Frame]], Awaitable[Frame]]) -> None:
        self._context, self._read = context, read
        self._waits: bool | None = None  # for the word to go ahead; not known before the first chunk
        self.has_ended = False

    async def frames(self) -> AsyncGenerator[Frame]:
        while (chunk := await self._context.read()) is not grpc.aio.EOF:
            frames = await frames_in(chunk, self._read)
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
        super().__init__(SERVICE, _Handlers(service).table(), params, on_revoked=service.revoked, reflection=reflection)


class _Handlers:
    """One method for each RPC: bytes to our messages, the service, and back."""

    def __init__(self, service: ControllerService) -> None:
        self._service = service
        self._headers = OneAtATime()

    def table(self) -> dict[str, Method]:
        service = self._service
        return {
            "JoinFederation": unary(service.join, convert.from_join_request, convert.join_reply),
            "LeaveFederation": unary(service.leave, convert.from_leave),
            "StartTraining": unary(service.start_training, convert_driver.from_start_request),
            "GetStatus": unary(lambda caller, _: service.status(caller), _ignore, convert_driver.status),
            "ReportEvaluation": unary(
                lambda caller, of: service.evaluated(caller, *of), convert_driver.from_evaluation
            ),
            "StopTraining": unary(lambda caller, to: service.stop_training(caller, *to), convert_driver.from_stop),
            "ShutDown": unary(lambda caller, to: service.shut_down(caller, *to), convert_driver.from_shut_down),
            "Report": unary(lambda caller, said: service.report(caller, *said), convert.from_report),
            "Tasks": Method.stream_stream(self.tasks),
            "FetchModel": Method.unary_stream(self.fetch_model),
            "GetModel": Method.unary_stream(self.get_model),
            "TrainDone": Method.stream_stream(self.train_done),
            "SetInitialModel": Method.stream_unary(self.set_initial_model),
            "WatchEvents": unary_stream(self._news, bytes),
            "Ask": unary_stream(self._answers, convert_driver.answer),
            "GetLogs": unary_stream(self._logs, convert_driver.record),
        }

    async def tasks(self, _: AsyncIterator[bytes], context: Context, caller: Caller) -> None:
        await self._service.tasks(caller, _ServerStream(context))

    async def fetch_model(self, request: bytes, context: Context, caller: Caller) -> None:
        await write_model(await self._service.fetch_model(caller, *convert.from_fetch_model(request)), context)

    async def get_model(self, request: bytes, context: Context, caller: Caller) -> None:
        await write_model(await self._service.get_model(caller, *convert_driver.from_get_model(request)), context)

    async def train_done(self, _: AsyncIterator[bytes], context: Context, caller: Caller) -> None:
        update = _UpdateCall(context, self._read_for(caller))
        async with aclosing(update.frames()) as frames:
            reply = await self._service.train_done(caller, token_of(context), frames, update.go_ahead)
        await context.write(convert.update_reply(reply))
        if not update.has_ended:
            await drain(context)  # whoever is still sending hears the answer only if the call does not end under it

    def _read_for(self, caller: Caller) -> Callable[[Generator[None, None, Frame]], Awaitable[Frame]]:
        return partial(self._headers.do, party=caller.identity or caller.peer)

    async def _news(self, caller: Caller, request: bytes) -> AsyncIterator[bytes]:
        async with aclosing(self._service.watch_events(caller, *convert_driver.from_watch(request))) as news:
            async for events in news:
                for message in convert_driver.events(events):
                    yield message
                await asyncio.sleep(NEWS_PAUSE_S)

    def _logs(self, caller: Caller, request: bytes) -> AsyncGenerator[RoundRecord, None]:
        return self._service.get_logs(caller, convert_driver.from_federation(request))

    def _answers(self, caller: Caller, request: bytes) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
        return self._service.ask(caller, convert_driver.from_ask(request))

    async def set_initial_model(self, _: AsyncIterator[bytes], context: Context, caller: Caller) -> bytes:
        async with hearing_out(context), aclosing(frames_from(context, self._read_for(caller))) as frames:
            await self._service.set_initial_model(caller, frames)
        return EMPTY


def _ignore(_: object) -> None:
    """Take what is not needed."""
