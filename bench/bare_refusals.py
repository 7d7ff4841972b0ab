"""A server of grpc.aio alone that refuses calls: what no controller over grpc.aio can go below when it is flooded.

It has our options, knows from a set who has a credential, and waits before a refusal as we do, so that a flood takes as
long as it does at a controller. To those who have a credential it says, with bytes that were made
before, what a controller says to an insider: a join, a task, the word to go ahead with an update, and that the update
is damaged. Nothing is parsed, checked, counted, logged or written down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import grpc
import grpc.aio

from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, TaskId, Token
from metisfl_async.core.messages import JoinReply, Outcome, TaskOffer, UpdateReply, Welcome
from metisfl_async.transport import convert
from metisfl_async.transport.grpc_access import Refusals
from metisfl_async.transport.grpc_options import GUARDED_OPTIONS, SERVER_OPTIONS
from metisfl_async.transport.malloc import keep_freed_memory

__all__ = ["bare_server"]

INSIDER = "insider"
LARGE_BYTES = 64 * 1024  #: a first message so large is refused
JOINED = convert.join_reply(JoinReply(LearnerId(INSIDER), Token("t" * 32), 1, 1.0, 30.0, 2**30))
WELCOME = convert.controller_message([Welcome({})])
OFFER = convert.controller_message(
    [TaskOffer(TaskId("a" * 32), TaskKind.TRAIN, 1, ModelRef(FederationId("f" * 32), 0), {})]
)
DAMAGED = convert.update_reply(UpdateReply(Outcome.DAMAGED))
Context: TypeAlias = grpc.aio.ServicerContext
Answer: TypeAlias = Callable[[Context], Awaitable[bool]]  #: says whether it has answered; if not, the call is refused


@asynccontextmanager
async def bare_server(credentials: Collection[str]) -> AsyncIterator[int]:
    """Serve on a port of the loopback; `credentials` are those that an insider may show."""
    keep_freed_memory()
    server = grpc.aio.server(options=[*SERVER_OPTIONS, *GUARDED_OPTIONS])
    server.add_generic_rpc_handlers((_Handlers({f"Bearer {each}" for each in credentials}),))
    port: int = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes every method; requests are received when they are read, as with us."""

    def __init__(self, known: Collection[str]) -> None:
        self._known, self._refusals = known, {True: Refusals(), False: Refusals()}
        answers = {"JoinFederation": _join, "LeaveFederation": _leave, "Tasks": _tasks, "TrainDone": _train_done}
        self._handlers = {
            name: grpc.stream_stream_rpc_method_handler(partial(self._handle, answer))
            for name, answer in answers.items()
        }
        self._other = grpc.stream_stream_rpc_method_handler(partial(self._handle, None))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._handlers.get(handler_call_details.method.rpartition("/")[2], self._other)

    async def _handle(self, answered: Answer | None, _: object, context: Context) -> None:
        shown = [value for key, value in context.invocation_metadata() if key == "authorization"]
        is_known = any(value in self._known for value in shown)
        if answered is not None and is_known and await answered(context):
            return
        await asyncio.sleep(self._refusals[is_known].pause_s(time.monotonic()))
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "refused")


async def _join(context: Context) -> bool:
    if INSIDER.encode() not in await context.read():
        return False
    await context.write(JOINED)
    return True


async def _leave(context: Context) -> bool:
    await context.write(b"")
    return True


async def _tasks(context: Context) -> bool:
    await context.read()
    await context.write(WELCOME)
    await context.write(OFFER)
    await asyncio.Event().wait()
    return True


async def _train_done(context: Context) -> bool:
    if len(await context.read()) > LARGE_BYTES:
        return False
    await context.write(convert.GO_AHEAD)
    await context.read()
    await context.write(DAMAGED)
    while await context.read() is not grpc.aio.EOF:
        pass
    return True
