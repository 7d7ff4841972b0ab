"""What every gRPC server of ours has: a port, TLS, limits, the health service, and how handlers are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from metisfl_async.codec.frame import Frame
from metisfl_async.core.config import ServerParams, address_of
from metisfl_async.core.errors import ConfigError, PeerTimeout, ProtocolError, TooLarge, TransportError
from metisfl_async.transport._proto import metisfl_pb2
from metisfl_async.transport.base import Download
from metisfl_async.transport.concurrency import to_the_end
from metisfl_async.transport.grpc_certificates import ServerCertificate
from metisfl_async.transport.grpc_errors import theirs
from metisfl_async.transport.grpc_guard import ServerGuard
from metisfl_async.transport.grpc_options import SERVER_OPTIONS
from metisfl_async.transport.malloc import keep_freed_memory
from metisfl_async.transport.reading import frames_in

__all__ = [
    "EMPTY",
    "Context",
    "GrpcHost",
    "closing",
    "drain",
    "frames_from",
    "hearing_out",
    "unary",
    "unary_stream",
    "write_model",
]

EMPTY = b""
DRAIN_S = 5.0  #: for the rest of a model that is refused in the middle
STALL_S = 60.0  #: for reading a chunk, or news; who does not would keep an old model in memory
Context: TypeAlias = grpc.aio.ServicerContext

T = TypeVar("T")


class GrpcHost:
    """Serves one service on a port; `port` says which once started.

    Parameters
    ----------
    name : str
        The service's full name.
    handlers : mapping of str to grpc.RpcMethodHandler
        By method.
    params : ServerParams
    reflection : bool
        Also serve ``grpc.reflection``, for tools such as grpcurl; needs the package's ``reflection`` extra.
    """

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, grpc.RpcMethodHandler],
        params: ServerParams,
        *,
        reflection: bool = False,
    ) -> None:
        self.port = params.port
        self._name, self._params, self._reflection = name, params, reflection
        self._handlers = grpc.method_handlers_generic_handler(name, handlers)
        self._health = health.aio.HealthServicer()
        self._guard: ServerGuard | None = None

    async def start(self) -> None:
        """Bind and serve; `TransportError` if the port cannot be had. When cancelled, nothing is left."""
        try:
            await to_the_end(self._start())
        except asyncio.CancelledError:
            await to_the_end(self.stop(0))
            raise

    async def _start(self) -> None:
        keep_freed_memory()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            _add_reflection(self._name, server)
        address = address_of(self._params.hostname, self._params.port)
        try:
            if self._params.server_certificate is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, ServerCertificate(self._params).credentials())
        except RuntimeError as error:
            raise TransportError(
                address, "cannot listen there; is the port taken, or the host another machine's?"
            ) from error
        self._guard = ServerGuard(server, self)
        await server.start()
        await self._health.set(self._name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls under way get so many seconds to end, then they are cancelled."""
        guard, self._guard = self._guard, None
        if guard is not None:
            await self._health.enter_graceful_shutdown()
            await guard.stop(grace_s)


def unary(
    name: str, method: Callable[[Any], Any], read: Callable[[bytes], Any], write: Callable[[Any], bytes] | None = None
) -> grpc.RpcMethodHandler:
    """Make a handler: bytes to our message, the method, and back; without `write`, the answer is empty."""

    async def handle(request: bytes, context: Context) -> bytes:
        async with theirs(context, name):
            reply = await method(read(request))
            return write(reply) if write else EMPTY
        return EMPTY  # to nobody

    return grpc.unary_unary_rpc_method_handler(handle)


def unary_stream(
    name: str, method: Callable[[bytes], AsyncIterator[Any]], write: Callable[[Any], bytes]
) -> grpc.RpcMethodHandler:
    async def handle(request: bytes, context: Context) -> None:
        async with theirs(context, name), closing(method(request)) as items:
            async for item in items:
                try:
                    async with asyncio.timeout(STALL_S):
                        await context.write(write(item))
                except TimeoutError:
                    raise PeerTimeout(context.peer(), f"it read nothing of {name} for {STALL_S:g} s") from None

    return grpc.unary_stream_rpc_method_handler(handle)


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Around the use of what may be a generator: close it here and now, not when it is garbage, without a loop."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def write_model(download: Download, context: Context) -> None:
    """Send a model to a reader that keeps reading."""
    async with download.turn:
        for chunk, size_bytes in download.begin().chunks(download.pace):
            try:
                with download.pace.sending(chunk):
                    async with asyncio.timeout(STALL_S):
                        await context.write(chunk)
            except TimeoutError:
                del download  # gRPC keeps the call until its reader is gone; nobody may keep the model for so long
                raise PeerTimeout(context.peer(), f"it read nothing of the model for {STALL_S:g} s") from None
            download.moved(size_bytes)


async def frames_from(context: Context) -> AsyncGenerator[Frame]:
    """Read a model's frames; to be closed by whoever asks for them."""
    while (chunk := await context.read()) is not grpc.aio.EOF:
        for frame in await frames_in(chunk):
            yield frame


@asynccontextmanager
async def hearing_out(context: Context) -> AsyncIterator[None]:
    """Around the reading of a model that may be refused: whoever is still sending hears why if the call goes on."""
    try:
        yield
    except (ProtocolError, TooLarge):
        await drain(context)
        raise


async def drain(context: Context) -> None:
    """Read what still comes of a model that is not wanted, for a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while await context.read() is not grpc.aio.EOF:
                pass


def _add_reflection(name: str, server: grpc.aio.Server) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError as error:
        raise ConfigError("reflection", True, "False, or install metisfl-async[reflection]") from error
    assert metisfl_pb2.DESCRIPTOR.name  # registers our messages
    reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
