"""Models kept in a Redis server, which outlive the controller if a key prefix was named.

A model is a hash: its bytes in chunks, and its record. A list for each owner names the hashes that are whole, oldest
first; only what is in a list exists for readers. A set names those that are being written.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar
from urllib.parse import quote

import numpy as np
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,  # noqa: A004
    RedisError,
    TimeoutError,  # noqa: A004
)

from metisfl_async.core.config import ModelStoreConfig, address_of
from metisfl_async.core.errors import ConnectionLost, MetisError, StoreError
from metisfl_async.core.model import Model
from metisfl_async.store.base import Stored
from metisfl_async.store.record import record_of, stored_of
from metisfl_async.transport.concurrency import to_the_end
from metisfl_async.transport.retry import insisting

__all__ = ["RedisStore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

CHUNK_BYTES = 2**20  #: a larger value would hold up this loop, and everybody else's commands at the server
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0  #: for one command; then the connection is given up
CLOSE_TIMEOUT_S = 2.0  #: for tidying up at a server that may be away
TRIES = 10  #: a server that loses what was written so often in a row does not keep models
RECORD = "record"  #: the field beside the chunks, which are numbered


class RedisStore:
    """A `ModelStore` in database 0 of a Redis server, under one prefix; it touches no other key.

    A server that is away is waited for, as long as it takes. One controller at a time uses a prefix.
    """

    def __init__(self, config: ModelStoreConfig) -> None:
        host, port = config.model_store_hostname or "127.0.0.1", config.model_store_port or 6379
        self._address = f"Redis at {address_of(host, port)}"
        self._prefix = config.key_prefix or f"metisfl:{secrets.token_hex(16)}"
        self._is_kept = config.key_prefix is not None  # nobody will find a prefix that nobody named
        self._length = config.lineage_length
        self._owners: set[str] = set()
        self._unfinished = f"{self._prefix}:unfinished:names"
        self._order = asyncio.Lock()  # an insertion takes many commands
        self._redis = Redis(
            host=host.strip("[]"),
            port=port,
            protocol=2,  # nothing of 3 is needed, and a server before 6 does not know it
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # one layer tries again: `insisting`
        )

    async def open(self) -> None:
        """Wait for the server, and remove what an insertion has left that never ended."""
        if left := await self._do(self._redis.smembers, self._unfinished):
            await self._do(self._redis.unlink, self._unfinished, *(self._model(_bytes(name).decode()) for name in left))

    async def close(self) -> None:
        if not self._is_kept and self._owners:
            await self._tidy(self._forget_everything)
        self._owners.clear()
        await self._redis.aclose()

    async def insert(self, owner: str, model: Model, weight: float = 1.0) -> None:
        async with self._order:
            self._owners.add(owner)
            name = secrets.token_hex(16)
            is_there = False
            try:
                for _ in range(TRIES):
                    fields = await self._write(name, model, weight)
                    if is_there := await self._do(self._commit, owner, name, fields):
                        return
                raise StoreError(self._address, f"it lost a model {TRIES} times while that was written; is it full?")
            finally:
                if not is_there:
                    await to_the_end(self._tidy(self._discard, owner, name))

    async def latest(self, owner: str) -> Stored | None:
        kept = await self._read(owner, -1)
        return kept[-1] if kept else None

    async def lineage(self, owner: str) -> list[Stored]:
        return await self._read(owner, -self._length)

    async def erase(self, owner: str) -> None:
        async with self._order:
            await self._do(self._erase, owner)

    # Keys: the last two parts have no colon, so no prefix reaches into another's keys.

    def _index(self, owner: str) -> str:
        return f"{self._prefix}:index:{quote(owner, safe='')}"

    def _model(self, name: str) -> str:
        return f"{self._prefix}:model:{name}"

    # Writing. Every step may be done again, for when the connection breaks it may or may not have happened.

    async def _write(self, name: str, model: Model, weight: float) -> int:
        """Write a model that nobody sees yet; say how many fields it has."""
        key, room = self._model(name), model.buffer.data
        await self._do(self._redis.sadd, self._unfinished, name)
        chunks = [room[start : start + CHUNK_BYTES] for start in range(0, len(room), CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            await self._do(self._redis.hset, key, str(number), chunk)
        await self._do(self._redis.hset, key, RECORD, record_of(model, weight))
        return len(chunks) + 1

    async def _commit(self, owner: str, name: str, fields: int) -> bool:
        """Make a model its owner's latest in one step; say whether it is, for a server may have forgotten parts."""
        index, key, is_whole = self._index(owner), self._model(name), False

        async def add(pipe: Pipeline) -> None:
            nonlocal is_whole
            names = await self._names(pipe, owner)
            if is_whole := name in names:
                return  # it was the answer that got lost
            if not (is_whole := await pipe.hlen(key) == fields):
                return
            pipe.multi()
            pipe.rpush(index, name)
            pipe.srem(self._unfinished, name)
            if self._length and (old := [*names, name][: -self._length]):
                pipe.ltrim(index, -self._length, -1)
                pipe.unlink(*map(self._model, old))

        # The model is watched as well: once `_discard` has removed it, a late EXEC does nothing.
        await self._redis.transaction(add, index, key)
        return is_whole

    async def _discard(self, owner: str, name: str) -> None:
        """Remove a model that was not finished, unless it was after all."""

        async def remove(pipe: Pipeline) -> None:
            if name not in await self._names(pipe, owner):
                pipe.multi()
                pipe.unlink(self._model(name))
                pipe.srem(self._unfinished, name)

        await self._redis.transaction(remove, self._index(owner))

    async def _erase(self, owner: str) -> None:
        async def remove(pipe: Pipeline) -> None:
            names = await self._names(pipe, owner)
            pipe.multi()
            pipe.unlink(self._index(owner), *map(self._model, names))

        await self._redis.transaction(remove, self._index(owner))

    async def _forget_everything(self) -> None:
        for owner in self._owners:
            await self._erase(owner)
        left = await self._redis.smembers(self._unfinished)
        await self._redis.unlink(self._unfinished, *(self._model(_bytes(name).decode()) for name in left))

    # Reading.

    async def _read(self, owner: str, start: int) -> list[Stored]:
        """Read from the `start`-th model on; one that is dropped meanwhile makes us look again."""
        read: dict[str, Stored] = {}
        while True:
            names = await self._do(self._names, self._redis, owner, start)
            for name in names:
                if name not in read and (stored := await self._read_model(name)) is not None:
                    read[name] = stored
            if not (gone := {name for name in names if name not in read}):
                return [read[name] for name in names]
            if gone & {*await self._do(self._names, self._redis, owner, start)}:
                why = (
                    f"it lost a model of {owner!r} under the prefix {self._prefix!r}; does its maxmemory-policy evict?"
                )
                raise StoreError(self._address, why)

    async def _names(self, redis: Redis, owner: str, start: int = 0) -> list[str]:
        return [_bytes(name).decode() for name in await redis.lrange(self._index(owner), start, -1)]

    async def _read_model(self, name: str) -> Stored | None:
        key = self._model(name)
        if (record := await self._do(self._redis.hget, key, RECORD)) is None:
            return None
        stored = stored_of(_bytes(record))
        room = stored.model.buffer
        for number, start in enumerate(range(0, len(room), CHUNK_BYTES)):
            if (chunk := await self._do(self._redis.hget, key, str(number))) is None:
                return None
            room[start : start + CHUNK_BYTES] = np.frombuffer(_bytes(chunk), np.uint8)
        stored.model.freeze()
        return stored

    # The server.

    async def _do(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await a command or a transaction, again and again while the server is away."""

        async def once() -> T:
            return await self._once(call, *args, **kwargs)

        return await insisting("the model store", self._address, None, once)

    async def _once(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except (AuthenticationError, AuthorizationError) as error:  # redis-py takes them for lost connections
            raise StoreError(self._address, f"{error} A server that asks for a password is not supported.") from error
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionLost(self._address, str(error)) from error
        except RedisError as error:
            raise StoreError(self._address, str(error)) from error

    async def _tidy(self, call: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove what nobody needs any more, if the server is there."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._once(call, *args, **kwargs)
        except (MetisError, OSError) as error:
            logger.warning("keys under %r stay in %s: %s", self._prefix, self._address, error)


def _bytes(answer: bytes | str) -> bytes:
    assert isinstance(answer, bytes)  # text only with decode_responses=True
    return answer
