"""The link to a controller over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from metisfl_async.codec.frame import Assembly, Header, check_size, decode, encode, frames_of
from metisfl_async.core.config import ClientParams
from metisfl_async.core.errors import ConnectionLost, Damaged
from metisfl_async.core.events import Event
from metisfl_async.core.ids import FederationId, Token
from metisfl_async.core.messages import (
    ControllerMessage,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    StartRequest,
    UpdateReply,
)
from metisfl_async.core.model import Model, allocate
from metisfl_async.core.records import RoundRecord
from metisfl_async.transport import convert
from metisfl_async.transport.base import Stream
from metisfl_async.transport.grpc_errors import ours
from metisfl_async.transport.grpc_options import CHANNEL_OPTIONS, SERVICE

__all__ = ["GrpcLink"]

UNARY_TIMEOUT_S = 30.0  #: for calls that the controller answers at once


class _ClientStream:
    """A learner's end of a Tasks stream."""

    def __init__(self, address: str, call: grpc.aio.StreamStreamCall) -> None:
        self._address, self._call = address, call

    async def send(self, message: LearnerMessage) -> None:
        with ours(self._address):
            try:
                await self._call.write(convert.learner_message(message))
            except asyncio.InvalidStateError as error:  # the call has ended; reading says why
                raise ConnectionLost(self._address, "the call has ended") from error

    async def receive(self) -> ControllerMessage | None:
        with ours(self._address):
            data = await self._call.read()
        return None if data is grpc.aio.EOF else convert.from_controller_message(data)


class GrpcLink:
    """Reaches a controller at an address; one connection, made when it is first needed and made again by itself."""

    def __init__(self, params: ClientParams) -> None:
        self.address = params.address
        if params.root_certificate is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(Path(params.root_certificate).read_bytes())
            self._channel = grpc.aio.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)

    async def join(self, request: JoinRequest) -> JoinReply:
        return convert.from_join_reply(await self._ask("JoinFederation", convert.join_request(request)))

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Stream[ControllerMessage, LearnerMessage]]:
        call = self._channel.stream_stream(_path("Tasks"))()
        try:
            yield _ClientStream(self.address, call)
        finally:
            call.cancel()

    async def fetch_model(self, token: Token, version: int, max_model_bytes: int) -> Model:
        request = convert.fetch_model((token, version))
        return await self._read_model("FetchModel", request, max_model_bytes)

    async def train_done(self, header: Header, update: Model) -> UpdateReply:
        """Send the header, wait for room, send the rest."""
        call = self._channel.stream_stream(_path("TrainDone"))()
        try:
            with ours(self.address):
                for frame in frames_of(header, update):
                    await call.write(encode(frame))
                    if frame is header and (reply := await self._reply(call)) != convert.GO_AHEAD:
                        return convert.from_update_reply(reply)
                await call.done_writing()
                return convert.from_update_reply(await self._reply(call))
        except asyncio.InvalidStateError as error:  # it ended while we were writing
            raise ConnectionLost(self.address, "the controller broke off the upload") from error
        finally:
            call.cancel()

    async def _reply(self, call: grpc.aio.StreamStreamCall) -> bytes:
        reply = await call.read()
        if reply is grpc.aio.EOF:
            raise ConnectionLost(self.address, "the controller ended the upload without an answer")
        return bytes(reply)

    async def leave(self, token: Token) -> None:
        await self._ask("LeaveFederation", convert.leave(token))

    async def set_initial_model(self, model: Model) -> None:
        call = self._channel.stream_unary(_path("SetInitialModel"))()
        try:
            with ours(self.address):
                try:
                    for frame in frames_of(Header("global", model.manifest, 0), model):
                        await call.write(encode(frame))
                    await call.done_writing()
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass  # the other side has answered early; what it said is read next
                await call
        finally:
            call.cancel()

    async def start_training(self, request: StartRequest) -> None:
        await self._ask("StartTraining", convert.start_request(request))

    async def watch_events(self, federation_id: FederationId) -> AsyncIterator[Event]:
        async for data in self._stream("WatchEvents", convert.watch(federation_id)):
            yield convert.from_event(data)

    async def get_logs(self) -> AsyncIterator[RoundRecord]:
        async for data in self._stream("GetLogs", b""):
            yield convert.from_record(data)

    async def get_model(self) -> Model:
        return await self._read_model("GetModel", b"", None)

    async def stop_training(self, reason: str) -> None:
        await self._ask("StopTraining", convert.stop(reason))

    async def shut_down(self) -> None:
        await self._ask("ShutDown", b"", timeout_s=None)

    async def close(self) -> None:
        await self._channel.close()

    async def _ask(self, method: str, request: bytes, timeout_s: float | None = UNARY_TIMEOUT_S) -> bytes:
        with ours(self.address):
            return bytes(await self._channel.unary_unary(_path(method))(request, timeout=timeout_s))

    async def _stream(self, method: str, request: bytes) -> AsyncIterator[bytes]:
        call = self._channel.unary_stream(_path(method))(request)
        try:
            with ours(self.address):
                while (data := await call.read()) is not grpc.aio.EOF:
                    yield data
        finally:
            call.cancel()

    async def _read_model(self, method: str, request: bytes, max_model_bytes: int | None) -> Model:
        call = self._channel.unary_stream(_path(method))(request)
        assembly: Assembly | None = None
        try:
            with ours(self.address):
                while (chunk := await call.read()) is not grpc.aio.EOF:
                    frame = decode(chunk)
                    if assembly is not None:
                        assembly.add(frame)
                    elif isinstance(frame, Header):
                        if max_model_bytes is not None:
                            check_size(frame, max_model_bytes)
                        assembly = Assembly(frame, allocate(frame.manifest.size_bytes))
                    else:
                        raise Damaged("stream", "the first frame is no header")
        finally:
            call.cancel()
        if assembly is None:
            raise ConnectionLost(self.address, "the model ended before it began")
        if not assembly.is_complete:
            raise ConnectionLost(self.address, str(assembly.truncated()))
        return assembly.model.freeze()


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"
