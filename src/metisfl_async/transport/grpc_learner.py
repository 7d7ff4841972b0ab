"""A learner that listens, from both sides: its server, and the controller's calls, a connection for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from metisfl_async.codec.frame import Header
from metisfl_async.codec.publication import Publication
from metisfl_async.core.access import Caller
from metisfl_async.core.config import ClientParams, ServerParams
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.ids import Token
from metisfl_async.core.messages import ControllerMessage
from metisfl_async.core.model import Model
from metisfl_async.transport import convert
from metisfl_async.transport.base import Download, LearnerService
from metisfl_async.transport.grpc_caller import GrpcCaller
from metisfl_async.transport.grpc_certificates import FreshParams
from metisfl_async.transport.grpc_host import (
    EMPTY,
    Context,
    GrpcHost,
    Method,
    frames_from,
    hearing_out,
    token_of,
    unary,
    write_model,
)
from metisfl_async.transport.grpc_options import LEARNER_SERVICE
from metisfl_async.transport.handshake import explaining

__all__ = ["DialledLearner", "GrpcLearnerServer"]

DIAL_TIMEOUT_S = 10.0  #: for reaching a learner and its acknowledgement


class GrpcLearnerServer(GrpcHost):
    """Serves a learner on a port."""

    def __init__(self, service: LearnerService, params: ServerParams) -> None:
        super().__init__(LEARNER_SERVICE, _Handlers(service).table(), params, on_revoked=_count_nothing)


class _Handlers:
    """One method for each RPC: bytes to our messages, the service, and back."""

    def __init__(self, service: LearnerService) -> None:
        self._service = service

    def table(self) -> dict[str, Method]:
        service = self._service
        return {
            "ConfirmJoin": unary(lambda _, secret: service.confirm_join(secret), convert.from_confirm_join),
            **{method: self._delivery(method) for method in ("Train", "Evaluate", "ShutDown", "Tell")},
            "GetModel": Method.unary_stream(self.get_model),
            "SetInitialModel": Method.stream_unary(self.set_initial_model),
        }

    def _delivery(self, method: str) -> Method:
        async def deliver(_: Caller, told: tuple[Token, int, Sequence[ControllerMessage]]) -> None:
            token, number, messages = told
            if (right := convert.delivery_method(messages)) != method:
                raise UnexpectedMessage(f"{method} does not carry {type(messages[-1]).__name__}; {right} does")
            await self._service.deliver(token, number, messages)

        return unary(deliver, convert.from_delivery)

    async def get_model(self, request: bytes, context: Context, _: Caller) -> None:
        publication = Publication(await self._service.get_model(convert.from_get_model(request)))
        await write_model(Download(lambda: publication, _count_nothing), context)

    async def set_initial_model(self, _: AsyncIterator[bytes], context: Context, _caller: Caller) -> bytes:
        async with hearing_out(context), aclosing(frames_from(context)) as frames:
            await self._service.set_initial_model(token_of(context), frames)
        return EMPTY


class DialledLearner:
    """Calls a learner that listens. No connection outlives its call."""

    def __init__(self, params: ClientParams) -> None:
        self.address = params.address
        self._params = FreshParams(params)

    async def confirm_join(self, secret: str) -> None:
        """Ask whether the learner there is the one that wants to join: `UnknownLearner` if not."""
        async with self._connected() as caller, explaining(self._params.given):
            await caller.ask("ConfirmJoin", convert.confirm_join(secret), DIAL_TIMEOUT_S)

    async def deliver(self, token: Token, number: int, messages: Sequence[ControllerMessage]) -> None:
        async with self._connected() as caller:
            request = convert.delivery((token, number, messages))
            await caller.ask(convert.delivery_method(messages), request, DIAL_TIMEOUT_S)

    async def get_model(self, token: Token, max_model_bytes: int) -> Model:
        async with self._connected() as caller:
            return await caller.read_model("GetModel", convert.get_model(token), max_model_bytes)

    async def set_initial_model(self, token: Token, model: Model) -> None:
        async with self._connected() as caller:
            await caller.send_model("SetInitialModel", Header("global", model.manifest, 0), model, token)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[GrpcCaller]:
        caller = GrpcCaller(self._params.read(), LEARNER_SERVICE)
        try:
            yield caller
        finally:
            await caller.close()


def _count_nothing(_: object) -> None:
    """Nobody asks how many bytes moved, or who is out."""
