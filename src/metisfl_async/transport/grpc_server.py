"""Serves a `ControllerService` over gRPC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from metisfl_async.codec.frame import Frame, decode
from metisfl_async.core.config import ServerParams, address_of
from metisfl_async.core.errors import ConfigError, ConnectionLost, PeerTimeout, TransportError
from metisfl_async.core.messages import ControllerMessage, LearnerMessage
from metisfl_async.transport import convert
from metisfl_async.transport._proto import metisfl_pb2
from metisfl_async.transport.base import ControllerService, Download
from metisfl_async.transport.grpc_errors import theirs
from metisfl_async.transport.grpc_options import SERVER_OPTIONS, SERVICE

__all__ = ["GrpcServer"]

logger = logging.getLogger(__name__)

EMPTY = b""
DRAIN_S = 5.0  #: for the rest of an update that is refused in the middle
STALL_S = 60.0  #: for reading a chunk; who does not would keep an old model in memory
Context: TypeAlias = grpc.aio.ServicerContext


class _ServerStream:
    """The controller's end of a Tasks stream."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def send(self, message: ControllerMessage) -> None:
        try:
            await self._context.write(convert.controller_message(message))
        except (grpc.aio.BaseError, grpc.RpcError) as error:
            raise ConnectionLost(self._context.peer(), "the learner is gone") from error

    async def receive(self) -> LearnerMessage | None:
        data = await self._context.read()
        return None if data is grpc.aio.EOF else convert.from_learner_message(data)


class GrpcServer:
    """Listens on a port; `port` says which once started.

    Parameters
    ----------
    service : ControllerService
    params : ServerParams
    reflection : bool
        Also serve ``grpc.reflection``, for tools such as grpcurl; needs the package's ``reflection`` extra.
    """

    def __init__(self, service: ControllerService, params: ServerParams, *, reflection: bool = False) -> None:
        self.port = params.port
        self._params = params
        self._handlers = _Handlers(service)
        self._reflection = reflection
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Bind and serve; `TransportError` if the port cannot be had."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers.table()),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            _add_reflection(server)
        address = address_of(self._params.hostname, self._params.port)
        try:
            if self._params.server_certificate is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, _server_credentials(self._params))
        except RuntimeError as error:
            raise TransportError(
                address, "cannot listen there; is the port taken, or the host another machine's?"
            ) from error
        await server.start()
        self._server = server
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls under way get so many seconds to end, then they are cancelled."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            await server.stop(grace_s)


class _Handlers:
    """One method for each RPC: bytes to our messages, the service, and back."""

    def __init__(self, service: ControllerService) -> None:
        self._service = service

    def table(self) -> dict[str, grpc.RpcMethodHandler]:
        service = self._service
        return {
            "JoinFederation": _unary("join", service.join, convert.from_join_request, convert.join_reply),
            "LeaveFederation": _unary("leave", service.leave, convert.from_leave),
            "StartTraining": _unary("start_training", service.start_training, convert.from_start_request),
            "StopTraining": _unary("stop_training", service.stop_training, convert.from_stop),
            "ShutDown": _unary("shut_down", lambda _: service.shut_down(), _ignore),
            "Tasks": grpc.stream_stream_rpc_method_handler(self.tasks),
            "FetchModel": grpc.unary_stream_rpc_method_handler(self.fetch_model),
            "GetModel": grpc.unary_stream_rpc_method_handler(self.get_model),
            "TrainDone": grpc.stream_stream_rpc_method_handler(self.train_done),
            "SetInitialModel": grpc.stream_unary_rpc_method_handler(self.set_initial_model),
            "WatchEvents": _unary_stream(
                "watch_events", lambda request: service.watch_events(convert.from_watch(request)), convert.event
            ),
            "GetLogs": _unary_stream("get_logs", lambda _: service.get_logs(), convert.record),
        }

    async def tasks(self, _: AsyncIterator[bytes], context: Context) -> None:
        async with theirs(context, "tasks"):
            await self._service.tasks(_ServerStream(context))

    async def fetch_model(self, request: bytes, context: Context) -> None:
        async with theirs(context, "fetch_model"):
            await _write_model(await self._service.fetch_model(*convert.from_fetch_model(request)), context)

    async def get_model(self, _: bytes, context: Context) -> None:
        async with theirs(context, "get_model"):
            await _write_model(Download(await self._service.get_model(), _ignore), context)

    async def train_done(self, _: AsyncIterator[bytes], context: Context) -> None:
        async def go_ahead() -> None:
            await context.write(convert.GO_AHEAD)

        async with theirs(context, "train_done"):
            reply = await self._service.train_done(_frames(context), go_ahead)
            await context.write(convert.update_reply(reply))
            # Whoever is still sending hears the answer only if the call does not end under it.
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    while await context.read() is not grpc.aio.EOF:
                        pass

    async def set_initial_model(self, _: AsyncIterator[bytes], context: Context) -> bytes:
        async with theirs(context, "set_initial_model"):
            await self._service.set_initial_model(_frames(context))
        return EMPTY


def _unary(
    name: str, method: Callable[[Any], Any], read: Callable[[bytes], Any], write: Callable[[Any], bytes] | None = None
) -> grpc.RpcMethodHandler:
    async def handle(request: bytes, context: Context) -> bytes:
        async with theirs(context, name):
            reply = await method(read(request))
            return write(reply) if write else EMPTY
        return EMPTY  # to nobody

    return grpc.unary_unary_rpc_method_handler(handle)


def _unary_stream(
    name: str, method: Callable[[bytes], AsyncIterator[Any]], write: Callable[[Any], bytes]
) -> grpc.RpcMethodHandler:
    async def handle(request: bytes, context: Context) -> None:
        async with theirs(context, name):
            async for item in method(request):
                await context.write(write(item))

    return grpc.unary_stream_rpc_method_handler(handle)


async def _write_model(download: Download, context: Context) -> None:
    for chunk, size_bytes in download.publication.chunks():
        try:
            async with asyncio.timeout(STALL_S):
                await context.write(chunk)
        except TimeoutError:
            del download  # gRPC keeps the call until its reader is gone; nobody may keep the model for so long
            raise PeerTimeout(context.peer(), f"it read nothing of the model for {STALL_S:g} s") from None
        download.moved(size_bytes)


async def _frames(context: Context) -> AsyncIterator[Frame]:
    while (chunk := await context.read()) is not grpc.aio.EOF:
        yield decode(chunk)


def _ignore(_: object) -> None:
    """Take what is not needed."""


def _server_credentials(params: ServerParams) -> grpc.ServerCredentials:
    assert params.private_key is not None
    assert params.server_certificate is not None
    key, certificate = (Path(file).read_bytes() for file in (params.private_key, params.server_certificate))
    return grpc.ssl_server_credentials([(key, certificate)])


def _add_reflection(server: grpc.aio.Server) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError as error:
        raise ConfigError("reflection", True, "False, or install metisfl-async[reflection]") from error
    assert metisfl_pb2.DESCRIPTOR.name  # registers our messages
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
