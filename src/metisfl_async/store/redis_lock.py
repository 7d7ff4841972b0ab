"""One controller at a time under a prefix: a key with a time limit, which its owner renews."""

from __future__ import annotations

import asyncio
import logging
import secrets

from redis.asyncio.client import Pipeline

from metisfl_async.core.errors import MetisError, StoreError
from metisfl_async.store.redis_server import Server, in_bytes
from metisfl_async.transport.concurrency import end_all

__all__ = ["RedisLock"]

logger = logging.getLogger(__name__)

LOCK_S = 30.0  #: how long a controller that has crashed keeps others out
RENEW_S = 10.0
LOOK_S = 0.5  #: between looks at a lock that somebody holds


class RedisLock:
    """Is taken, renewed by a task of its own, and released.

    A server that has lost it, or was away for longer than it lasts, is given it again if nobody else has taken it.
    """

    def __init__(self, server: Server, prefix: str) -> None:
        self.key = f"{prefix}:lock:owner"
        self._server, self._prefix = server, prefix
        self._value = secrets.token_hex(16).encode()
        self._renewing: asyncio.Task[None] | None = None
        self.may_be_held = False

    async def take(self) -> None:
        """Take the lock; wait while a controller that may have crashed holds it.

        Raises
        ------
        StoreError
            If its owner renews it.
        """
        holder, left_ms = None, 0
        self.may_be_held = True
        while not await self._server.do(self._try_to_take):
            value = await self._server.do(self._server.redis.get, self.key)
            now_left_ms = await self._server.do(self._server.redis.pttl, self.key)
            if value is not None and holder is not None and (value != holder or now_left_ms > left_ms):
                raise self._is_taken()
            if value is not None and holder is None:
                logger.warning(
                    "the prefix %r of %s is in use; waiting up to %.0f s to see whether its controller is alive",
                    *(self._prefix, self._server.address, now_left_ms / 1e3),
                )
            holder, left_ms = value, now_left_ms
            await asyncio.sleep(LOOK_S)
        self._renewing = asyncio.create_task(self._renew(), name="renew-store-lock")

    async def release(self) -> None:
        """Let others have it."""
        await self._server.redis.transaction(self._drop, self.key)

    async def end(self) -> None:
        """Stop renewing; may be called twice."""
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            await end_all([renewing])

    async def check(self, pipe: Pipeline) -> bool:
        """Look, within a transaction that watches the key, whether it is ours; say whether it has to be set again.

        Raises
        ------
        StoreError
            If another controller has taken it.
        """
        value = await pipe.get(self.key)
        if value is not None and in_bytes(value) != self._value:
            raise self._is_taken()
        return value is None

    def set(self, pipe: Pipeline) -> None:
        pipe.set(self.key, self._value, px=int(LOCK_S * 1e3))

    def _is_taken(self) -> StoreError:
        why = f"another controller uses the key_prefix {self._prefix!r}; end one of the two, or choose another prefix"
        return StoreError(self._server.address, why)

    async def _try_to_take(self) -> bool:
        is_new = await self._server.redis.set(self.key, self._value, nx=True, px=int(LOCK_S * 1e3))
        return bool(is_new) or await self._server.redis.get(self.key) == self._value  # an answer may have got lost

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._server.once(self._server.redis.transaction, self._prolong, self.key)
            except (MetisError, OSError) as error:
                logger.warning("the lock of the model store was not renewed: %s", error)

    async def _prolong(self, pipe: Pipeline) -> None:
        must_set = await self.check(pipe)
        pipe.multi()
        if must_set:
            self.set(pipe)
        else:  # a server whose memory is full lets us
            pipe.pexpire(self.key, int(LOCK_S * 1e3))

    async def _drop(self, pipe: Pipeline) -> None:
        if await pipe.get(self.key) == self._value:
            pipe.multi()
            pipe.unlink(self.key)
