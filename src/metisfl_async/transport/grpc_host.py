"""What every gRPC server of ours has: a port, TLS, limits, the health service, and how handlers are made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from metisfl_async.codec.frame import Frame
from metisfl_async.core.access import Caller, Identity
from metisfl_async.core.config import ServerParams, address_of
from metisfl_async.core.errors import (
    ConfigError,
    Damaged,
    PeerTimeout,
    ProtocolError,
    TooLarge,
    TransportError,
    Truncated,
)
from metisfl_async.core.ids import Token
from metisfl_async.transport._proto import metisfl_pb2
from metisfl_async.transport.base import Download
from metisfl_async.transport.concurrency import end_all, to_the_end
from metisfl_async.transport.grpc_access import Access
from metisfl_async.transport.grpc_certificates import ServerCertificate
from metisfl_async.transport.grpc_errors import theirs
from metisfl_async.transport.grpc_guard import ServerGuard
from metisfl_async.transport.grpc_options import GUARDED_OPTIONS, SERVER_OPTIONS, TOKEN
from metisfl_async.transport.malloc import keep_freed_memory
from metisfl_async.transport.ports import check_free
from metisfl_async.transport.reading import frames_in

__all__ = [
    "EMPTY",
    "Context",
    "GrpcHost",
    "Method",
    "closing",
    "drain",
    "frames_from",
    "hearing_out",
    "token_of",
    "unary",
    "unary_stream",
    "write_model",
]

logger = logging.getLogger(__name__)

EMPTY = b""
DRAIN_S = 5.0  #: for the rest of a model that is refused in the middle
STALL_S = 60.0  #: for reading a chunk, or news; who does not would keep an old model in memory; and for a request
Context: TypeAlias = grpc.aio.ServicerContext

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is served: what `run` is given is the request, or an iterator that is not used, and who calls.

    To gRPC, every request is a stream: of a method with one request, it would receive that before it asks us anything,
    and keep megabytes for as long as a stranger does not end it.
    """

    kind: Callable[..., grpc.RpcMethodHandler]  #: one of gRPC's two for streams of requests
    run: Callable[[Any, Context, Caller], Awaitable[Any]]
    asks_once: bool = False  #: whether `run` is given the one request

    @classmethod
    def unary(cls, run: Callable[[bytes, Context, Caller], Awaitable[bytes]]) -> Method:
        return cls(grpc.stream_unary_rpc_method_handler, run, True)

    @classmethod
    def unary_stream(cls, run: Callable[[bytes, Context, Caller], Awaitable[None]]) -> Method:
        return cls(grpc.stream_stream_rpc_method_handler, run, True)

    @classmethod
    def stream_unary(cls, run: Callable[[Any, Context, Caller], Awaitable[bytes]]) -> Method:
        return cls(grpc.stream_unary_rpc_method_handler, run)

    @classmethod
    def stream_stream(cls, run: Callable[[Any, Context, Caller], Awaitable[None]]) -> Method:
        return cls(grpc.stream_stream_rpc_method_handler, run)

    def guarded(self, access: Access, name: str) -> grpc.RpcMethodHandler:
        """Make the handler: whoever may not call it gets no further."""

        async def handle(requests: Any, context: Context) -> Any:
            async with theirs(context, name), access.admitted(context, name) as caller:
                given = await _request(context, name) if self.asks_once else requests
                return await self.run(given, context, caller)
            return EMPTY  # to nobody

        return self.kind(handle)


async def _request(context: Context, method: str) -> bytes:
    """Receive the one request of a call."""
    try:
        async with asyncio.timeout(STALL_S):
            request = await context.read()
    except TimeoutError:
        raise PeerTimeout(context.peer(), f"its request was not whole within {STALL_S:g} s") from None
    if request is grpc.aio.EOF:
        raise Truncated(method, "ended before the request")
    return bytes(request)


class _Guarded(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Puts what others made, such as the health service, under the same table."""

    def __init__(self, inner: grpc.GenericRpcHandler, access: Access) -> None:
        self._inner, self._access = inner, access

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        found = self._inner.service(handler_call_details)
        if found is None:
            return None
        _, service, method = str(handler_call_details.method).split("/")
        of_one, of_many = (found.unary_unary, found.unary_stream), (found.stream_unary, found.stream_stream)
        inner = next(each for each in (*of_one, *of_many) if each is not None)

        async def handle(requests: Any, context: Context) -> Any:
            async with theirs(context, method), self._access.admitted(context, method, service):
                given = requests
                if not found.request_streaming:
                    given = _parsed(found.request_deserializer, await _request(context, method), method)
                answer = inner(given, context)
                if isinstance(answer, AsyncIterator):
                    async with closing(answer) as items:
                        async for item in items:
                            await context.write(item)
                    return None
                return await answer

        read = found.request_deserializer if found.request_streaming else None
        if found.response_streaming:
            return grpc.stream_stream_rpc_method_handler(handle, read, found.response_serializer)
        return grpc.stream_unary_rpc_method_handler(handle, read, found.response_serializer)


def _parsed(parse: Callable[[bytes], T], request: bytes, method: str) -> T:
    try:
        return parse(request)
    except DecodeError as error:
        raise Damaged(method, str(error)) from error


class _Others:
    """Stands for a server towards those that add a service to one."""

    def __init__(self, server: grpc.aio.Server, access: Access) -> None:
        self._server, self._access = server, access

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers([_Guarded(each, self._access) for each in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Do nothing: those are found by `add_generic_rpc_handlers`."""


class GrpcHost:
    """Serves one service on a port; `port` says which once started.

    Parameters
    ----------
    name : str
        The service's full name.
    methods : mapping of str to Method
    params : ServerParams
    on_revoked : callable
        Is told whose credential is not good any more.
    reflection : bool
        Also serve ``grpc.reflection``, for tools such as grpcurl; needs the package's ``reflection`` extra.
    """

    def __init__(
        self,
        name: str,
        methods: Mapping[str, Method],
        params: ServerParams,
        *,
        on_revoked: Callable[[Identity], object],
        reflection: bool = False,
    ) -> None:
        params.check_safe()
        self.port = params.port
        self._name, self._params, self._reflection = name, params, reflection
        self._access = Access(name, params, on_revoked)
        handlers = {method: each.guarded(self._access, method) for method, each in methods.items()}
        self._handlers = grpc.method_handlers_generic_handler(name, handlers)
        self._watch: asyncio.Task[None] | None = None
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
        guarded = GUARDED_OPTIONS if self._params.asks_for_credentials else []
        server = grpc.aio.server(options=[*SERVER_OPTIONS, *guarded])
        server.add_generic_rpc_handlers((self._handlers,))
        others = _Others(server, self._access)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, others)
        if self._reflection:
            _add_reflection(self._name, others)
        address = address_of(self._params.hostname, self._params.port)
        await check_free(self._params.hostname, self._params.port)
        try:
            if self._params.server_certificate is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, ServerCertificate(self._params).credentials())
        except RuntimeError as error:
            raise TransportError(
                address, "cannot listen there; is the port taken, or the host another machine's?"
            ) from error
        if self._params.insecure:
            logger.warning("anybody who can reach %s may do everything there: it is insecure, as you said", address)
        self._guard = ServerGuard(server, self)
        await server.start()
        self._watch = asyncio.create_task(self._access.watch(), name="watches-credentials")
        await self._health.set(self._name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls under way get so many seconds to end, then they are cancelled."""
        if self._watch is not None:
            await end_all([self._watch])
        guard, self._guard = self._guard, None
        if guard is not None:
            await self._health.enter_graceful_shutdown()
            await guard.stop(grace_s)


def unary(
    method: Callable[[Caller, Any], Any], read: Callable[[bytes], Any], write: Callable[[Any], bytes] | None = None
) -> Method:
    """Serve a method: bytes to our message, the method, and back; without `write`, the answer is empty."""

    async def run(request: bytes, _: Context, caller: Caller) -> bytes:
        reply = await method(caller, read(request))
        return write(reply) if write else EMPTY

    return Method.unary(run)


def unary_stream(method: Callable[[Caller, bytes], AsyncIterator[Any]], write: Callable[[Any], bytes]) -> Method:
    async def run(request: bytes, context: Context, caller: Caller) -> None:
        async with closing(method(caller, request)) as items:
            async for item in items:
                try:
                    async with asyncio.timeout(STALL_S):
                        await context.write(write(item))
                except TimeoutError:
                    raise PeerTimeout(context.peer(), f"it read nothing for {STALL_S:g} s") from None

    return Method.unary_stream(run)


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


async def frames_from(
    context: Context, read: Callable[[Generator[None, None, Frame]], Awaitable[Frame]] | None = None
) -> AsyncGenerator[Frame]:
    """Read a model's frames; to be closed by whoever asks for them. See `frames_in`."""
    while (chunk := await context.read()) is not grpc.aio.EOF:
        for frame in await frames_in(chunk, read):
            yield frame


def token_of(context: Context) -> Token:
    """Say which join a call with a model belongs to; it is known before anything of the model is read."""
    return Token("".join(str(value) for key, value in context.invocation_metadata() or () if key == TOKEN))


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


def _add_reflection(name: str, server: _Others) -> None:
    try:
        from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
    except ImportError as error:
        raise ConfigError("reflection", True, "False, or pip install grpcio-reflection") from error
    assert metisfl_pb2.DESCRIPTOR.name  # registers our messages
    servicer = reflection.aio.ReflectionServicer((name, health.SERVICE_NAME, reflection.SERVICE_NAME))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
