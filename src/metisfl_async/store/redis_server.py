"""A connection to a Redis server that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,  # noqa: A004
    RedisError,
    TimeoutError,  # noqa: A004
)

from metisfl_async.core.config import address_of
from metisfl_async.core.errors import ConnectionLost, StoreError
from metisfl_async.transport.retry import insisting

__all__ = ["Server", "in_bytes", "in_text"]

T = TypeVar("T")
P = ParamSpec("P")

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0  #: for one command; then the connection is given up
PATIENCE_S = 10.0  #: how long a command is tried again; then who asked for it is told


class Server:
    """Database 0 of a server."""

    def __init__(self, host: str, port: int) -> None:
        self.address = f"Redis at {address_of(host, port)}"
        self.redis = Redis(
            host=host.strip("[]"),
            port=port,
            protocol=2,  # nothing of 3 is needed, and a server before 6 does not know it
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # one layer tries again: `insisting`
        )

    async def close(self) -> None:
        await self.redis.aclose()

    async def do(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await a command or a transaction, again and again while the server is away, for some seconds."""

        async def once() -> T:
            return await self.once(call, *args, **kwargs)

        try:
            return await insisting("the model store", self.address, PATIENCE_S, once)
        except ConnectionLost as error:
            raise StoreError(self.address, error.reason) from error

    async def once(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        before = _cancellations()
        try:
            result = await call(*args, **kwargs)
        except (AuthenticationError, AuthorizationError) as error:  # redis-py takes them for lost connections
            raise StoreError(self.address, f"{error} A server that asks for a password is not supported.") from error
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionLost(self.address, str(error)) from error
        except RedisError as error:
            raise StoreError(self.address, str(error)) from error
        if _cancellations() > before:  # redis-py gave the answer nevertheless, and the cancellation is lost
            raise asyncio.CancelledError
        return result


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def in_bytes(answer: bytes | str) -> bytes:
    assert isinstance(answer, bytes)  # text only with decode_responses=True
    return answer


def in_text(answer: bytes | str) -> str:
    return in_bytes(answer).decode(errors="replace")  # what is damaged is seen where it is used
