"""The client's end of one of our services: calls by name, and models as streams of frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from metisfl_async.codec.coded import Layout, effort
from metisfl_async.codec.coding import coding_of
from metisfl_async.codec.frame import Assembly, Header, bundles_of, check_size, encode
from metisfl_async.codec.pace import Pace
from metisfl_async.core.codecs import RAW
from metisfl_async.core.config import ClientParams
from metisfl_async.core.errors import ConnectionLost, Damaged
from metisfl_async.core.ids import Token
from metisfl_async.core.model import Bytes, Model, allocate
from metisfl_async.transport.concurrency import aside, first_of, is_being_cancelled
from metisfl_async.transport.grpc_errors import ours
from metisfl_async.transport.grpc_options import CHANNEL_OPTIONS, TOKEN
from metisfl_async.transport.malloc import keep_freed_memory
from metisfl_async.transport.reading import frames_in

__all__ = ["UNARY_TIMEOUT_S", "Answers", "GrpcCaller", "until_begun"]

UNARY_TIMEOUT_S = 30.0  #: for calls that are answered at once


class _Calls(ours):
    """Around the calls of one connection, which may be given up under them."""

    is_given_up = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError) and self.is_given_up and not is_being_cancelled():
            # The call is cancelled, not whoever waits for it.
            raise ConnectionLost(self.address, "the connection was given up for a new one") from None
        super().__exit__(kind, error, trace)


class GrpcCaller:
    """Calls the methods of one service; one connection, made when it is first needed and made again by itself.

    Models are sent at the `pace` that an earlier connection to the same place had, if it is given.
    """

    def __init__(self, params: ClientParams, service: str, pace: Pace | None = None) -> None:
        self.address = params.address
        self.pace = pace or Pace()
        self.moved_at = 0.0  #: when an update got further, on the monotonic clock
        self._service = service
        self._calls = _Calls(params.address)
        self.metadata = None if params.token is None else (("authorization", f"Bearer {params.token}"),)
        keep_freed_memory()
        if (certificate := params.root_certificate_bytes) is None:
            self.channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        else:
            key, own = params.pair_bytes or (None, None)
            credentials = grpc.ssl_channel_credentials(certificate, key, own)
            self.channel = grpc.aio.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)

    async def connects_within(self, seconds: float) -> bool:
        """Say whether the connection is there within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.channel.channel_ready()
                return True
        return False

    def path(self, method: str) -> str:
        return f"/{self._service}/{method}"

    def ours(self) -> _Calls:
        """Around a call: raise our errors instead of gRPC's."""
        return self._calls

    async def ask(self, method: str, request: bytes, timeout_s: float | None = UNARY_TIMEOUT_S) -> bytes:
        with self.ours():
            return bytes(
                await self.channel.unary_unary(self.path(method))(request, timeout=timeout_s, metadata=self.metadata)
            )

    def stream(self, method: str, request: bytes) -> Answers:
        with self.ours():
            return Answers(self, self.channel.unary_stream(self.path(method))(request, metadata=self.metadata))

    async def read_model(
        self,
        method: str,
        request: bytes,
        max_model_bytes: int,
        again: Bytes | None = None,
        heard: Callable[[], object] = lambda: None,
        *,
        codec: str = RAW,
    ) -> Model:
        """Receive a model, in this codec or as it is; a coded one is made whole in a thread."""
        with self.ours():
            call = self.channel.unary_stream(self.path(method))(request, metadata=self.metadata)
        assembly: Assembly | None = None
        layout: Layout | None = None
        try:
            with self.ours():
                while (chunk := await call.read()) is not grpc.aio.EOF:
                    heard()
                    for frame in await frames_in(chunk):
                        if assembly is not None:
                            assembly.add(frame)
                        elif isinstance(frame, Header):
                            check_size(frame, max_model_bytes)
                            if frame.codec != codec or (coding := coding_of(codec)) is None:
                                assembly = Assembly(frame, allocate(frame.manifest.size_bytes, again))
                                continue
                            layout = await aside(effort(frame.manifest), Layout.of, coding, frame.manifest)
                            assembly = Assembly(frame, allocate(layout.coded.size_bytes), layout.coded)
                        else:
                            raise Damaged("stream", "the first frame is no header")
        finally:
            call.cancel()
        if assembly is None:
            raise ConnectionLost(self.address, "the model ended before it began")
        if not assembly.is_complete:
            raise ConnectionLost(self.address, str(assembly.truncated()))
        if layout is None:
            return assembly.model
        return await aside(effort(layout.whole), layout.decoded, assembly.model, None, again)

    def metadata_with(self, token: Token) -> tuple[tuple[str, str], ...]:
        """What goes with a call that carries a model and no message of ours to say the token of a join in."""
        return (*(self.metadata or ()), (TOKEN, token))

    async def send_model(self, method: str, header: Header, model: Model, token: Token | None = None) -> None:
        metadata = self.metadata if token is None else self.metadata_with(token)
        with self.ours():
            call = self.channel.stream_unary(self.path(method))(metadata=metadata)
        try:
            with self.ours():
                try:
                    for frames in bundles_of(header, model, self.pace):
                        chunk = encode(*frames)
                        with self.pace.sending(chunk):
                            await call.write(chunk)
                    await call.done_writing()
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass  # the other side has answered early; what it said is read next
                await call
        finally:
            call.cancel()

    async def give_up(self) -> None:
        """Close the connection for a new one; what is under way ends with `ConnectionLost`."""
        self._calls.is_given_up = True
        await self.close()

    async def close(self) -> None:
        """Close the connection; what is under way is cancelled."""
        await self.channel.close()


async def until_begun(call: grpc.aio.StreamStreamCall) -> None:
    """Wait until a call can be written to, or has ended; gRPC forgets who writes to one that is cancelled before."""
    has_ended = asyncio.Event()
    call.add_done_callback(lambda _: has_ended.set())
    await first_of(call.wait_for_connection(), has_ended.wait())


class Answers:
    """The answers to one call, in order. Unlike a generator, it can be dropped at any time: gRPC cancels the call."""

    def __init__(self, caller: GrpcCaller, call: grpc.aio.UnaryStreamCall) -> None:
        self._caller, self._call = caller, call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._caller.ours():
            data = await self._call.read()
        if data is grpc.aio.EOF:
            raise StopAsyncIteration
        return bytes(data)

    async def aclose(self) -> None:
        self._call.cancel()
