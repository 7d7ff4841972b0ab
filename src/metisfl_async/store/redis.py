"""Models kept in a Redis server, which outlive the controller if a key prefix was named.

A model is a hash: its bytes in chunks, its record, and a digest of both. For each federation there is a hash of what
its last commit has said, a list of its rounds' texts, and for each owner a list that names the models that are valid,
oldest first. A set names the models that no commit names yet, those that are being written included.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import ParamSpec
from urllib.parse import quote

import numpy as np
from redis.asyncio.client import Pipeline

from metisfl_async.codec.digest import digest_of
from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.errors import MetisError, StoreError
from metisfl_async.core.model import Array, Model
from metisfl_async.store.base import Stored
from metisfl_async.store.durable import DurableStore, Found, Unreadable
from metisfl_async.store.kept import Change, Entry, Kept
from metisfl_async.store.record import Record, bytes_of, record_of
from metisfl_async.store.redis_lock import RedisLock
from metisfl_async.store.redis_server import Server, in_bytes, in_text
from metisfl_async.store.worker import Worker

__all__ = ["RedisStore"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")

CHUNK_BYTES = 2**20  #: a larger value would hold up this loop, and everybody else's commands at the server
CLOSE_TIMEOUT_S = 2.0  #: for tidying up at a server that may be away
TRIES = 10  #: a server that loses what was written so often in a row does not keep models
EVICTS = "does the server's maxmemory-policy evict?"
RECORD, DIGEST = "record", "digest"  #: the fields beside the chunks, which are numbered


class RedisStore(DurableStore):
    """A `ModelStore` in database 0 of a Redis server, under one prefix; it touches no other key.

    A server that is away is waited for, some seconds. One controller at a time uses a prefix.
    """

    def __init__(self, config: ModelStoreConfig) -> None:
        self._server = Server(config.model_store_hostname or "127.0.0.1", config.model_store_port or 6379)
        super().__init__(self._server.address, config.lineage_length)
        self._redis = self._server.redis
        self._prefix = config.key_prefix or f"metisfl:{secrets.token_hex(16)}"
        self.is_durable = config.key_prefix is not None  # nobody will find a prefix that nobody named
        self._lock = RedisLock(self._server, self._prefix)
        self._unfinished, self._federations = self._key("unfinished", "names"), self._key("federations", "ids")
        self._aside: list[str] = []  # keys
        self._worker = Worker()

    async def open(self) -> None:
        """Take the prefix, and remove what no commit names."""
        await self._lock.take()
        await self._server.do(self._sweep)

    async def close(self) -> None:
        self._kept = None
        may_be_held, self._lock.may_be_held = self._lock.may_be_held, False
        try:
            await self._lock.end()
            if may_be_held:
                await self._tidy(self._forget)
        finally:
            self._worker.close()
            await self._server.close()

    # Keys: the last two parts have no colon, so no prefix reaches into another's keys.

    def _key(self, kind: str, *names: str) -> str:
        return f"{self._prefix}:{kind}:{'/'.join(quote(name, safe='') for name in names)}"

    def _model(self, name: str) -> str:
        return self._key("model", name)

    # Federations.

    async def _find_unfinished(self) -> str | None:
        last = await self._server.do(self._redis.lindex, self._federations, -1)
        if last is None:
            return None
        finished = await self._server.do(self._redis.hget, self._key("federation", in_text(last)), "is_finished")
        return None if finished == b"1" else in_text(last)

    async def _add(self, federation_id: str, standing: str) -> None:
        key, is_new = self._key("federation", federation_id), False

        async def add(pipe: Pipeline) -> None:
            nonlocal is_new
            must_lock = await self._lock.check(pipe)
            commits = await pipe.hget(key, "commits")
            if is_new := commits in (None, b"0"):
                pipe.multi()
                pipe.hset(key, mapping={"commits": 0, "standing": standing, "is_finished": 0})
                if commits is None:
                    pipe.rpush(self._federations, federation_id)
                if must_lock:
                    self._lock.set(pipe)

        await self._server.do(self._redis.transaction, add, key, self._lock.key)
        if not is_new:
            raise StoreError(self._where, f"it has a federation {federation_id!r} already")

    async def _find(self, federation_id: str) -> Found | None:
        await self._server.do(self._sweep)
        key = self._key("federation", federation_id)
        facts = {
            in_text(name): in_text(value) for name, value in (await self._server.do(self._redis.hgetall, key)).items()
        }
        if "commits" not in facts:
            return None
        models = {}
        for owner in await self._server.do(self._redis.smembers, self._key("owners", federation_id)):
            names = await self._server.do(self._redis.lrange, self._key("index", federation_id, in_text(owner)), 0, -1)
            models[in_text(owner)] = [in_text(name) for name in names]
        rounds = await self._server.do(self._redis.llen, self._key("rounds", federation_id))
        version = int(facts["version"]) if facts.get("version") else None
        kept = Kept(federation_id, int(facts["commits"]), version, facts.get("arrays") or None, rounds, models)
        return Found(kept, facts["standing"])

    async def _count_commits(self, federation_id: str) -> int:
        """Count them after what is on its way; a commit that is still on its way does not happen any more."""
        key = self._key("federation", federation_id)

        async def ask() -> list[bytes | None]:
            async with self._redis.pipeline() as pipe:
                pipe.hincrby(key, "fence", 1)  # every commit watches the key
                pipe.hget(key, "commits")
                answers: list[bytes | None] = await pipe.execute()
                return answers

        _, commits = await self._server.do(ask)
        if commits is None:
            raise self._lost(f"the federation {federation_id!r}")
        return int(commits)

    async def _read_rounds(self, federation_id: str, start: int, count: int) -> list[str]:
        key = self._key("rounds", federation_id)
        return [in_text(text) for text in await self._server.do(self._redis.lrange, key, start, start + count - 1)]

    # Writing. Every step may be done again, for when the connection breaks it may or may not have happened.

    async def _write(
        self, federation_id: str, owner: str | None, what: Stored | Mapping[str, Array], written: list[Entry]
    ) -> str:
        if isinstance(what, Stored):
            model = what.model
            record = record_of(model.manifest, model.version, what.weight, what.task_id)
        else:
            model = await self._worker.do(Model.from_arrays, [*what.values()], [*what])
            record = record_of(model.manifest)
        digest = await self._worker.do(_digest, record.encode(), model)
        entry = Entry(owner, secrets.token_hex(16))
        written.append(entry)
        key, room = self._model(entry.name), model.buffer.data
        chunks = [room[start : start + CHUNK_BYTES] for start in range(0, len(room), CHUNK_BYTES)]
        for _ in range(TRIES):
            await self._server.do(self._redis.sadd, self._unfinished, entry.name)
            for number, chunk in enumerate(chunks):
                await self._server.do(self._redis.hset, key, str(number), chunk)
            await self._server.do(self._redis.hset, key, mapping={RECORD: record, DIGEST: digest})
            if await self._server.do(self._redis.hlen, key) == len(chunks) + 2:
                return entry.name
        raise StoreError(self._where, f"it lost a model {TRIES} times while that was written; is it full?")

    async def _commit(self, change: Change) -> None:
        key = self._key("federation", change.federation_id)
        added = [self._model(name) for name in [change.arrays or "", *(entry.name for entry in change.added)] if name]

        async def write(pipe: Pipeline) -> None:
            must_lock = await self._lock.check(pipe)
            commits = await pipe.hget(key, "commits")
            if commits is None:
                raise self._lost(f"the federation {change.federation_id!r}")
            if int(commits) == change.number:
                return  # it was the answer that got lost
            if added and await pipe.exists(*added) != len(added):
                raise self._lost("a model")
            known = await pipe.smembers(owners) if change.is_all else ()
            pipe.multi()
            if change.is_all:
                pipe.unlink(owners, *(self._key("index", change.federation_id, in_text(owner)) for owner in known))
            self._write_change(pipe, change)
            if must_lock:
                self._lock.set(pipe)

        owners = self._key("owners", change.federation_id)
        await self._server.do(self._redis.transaction, write, key, self._lock.key, *added)

    async def _after_commit(self, change: Change) -> None:
        """The transaction has removed what is gone."""

    def _write_change(self, pipe: Pipeline, change: Change) -> None:
        federation, owners = change.federation_id, self._key("owners", change.federation_id)
        facts = {
            "commits": str(change.number),
            "standing": change.standing,
            "version": "" if change.version is None else str(change.version),
            "arrays": change.arrays or "",
            "is_finished": str(int(change.is_finished)),
        }
        pipe.hset(self._key("federation", federation), mapping=facts)  # type: ignore[arg-type]
        for owner, name in change.removed:
            pipe.lrem(self._key("index", federation, owner or ""), 1, name)
        for owner, name in change.added:
            pipe.rpush(self._key("index", federation, owner or ""), name)
        for owner, names in change.models.items():
            (pipe.sadd if names else pipe.srem)(owners, owner)
        texts = self._key("rounds", federation)
        if change.first_round == 0:
            pipe.unlink(texts)
        else:
            pipe.ltrim(texts, 0, change.first_round - 1)
        if change.rounds:
            pipe.rpush(texts, *change.rounds)
        named = [entry.name for entry in change.added] + ([change.arrays] if change.arrays else [])
        if named:
            pipe.srem(self._unfinished, *named)
        if change.gone:
            pipe.unlink(*(self._model(entry.name) for entry in change.gone))
            pipe.srem(self._unfinished, *(entry.name for entry in change.gone))

    async def _discard(self, federation_id: str, entries: list[Entry]) -> None:
        names = [entry.name for entry in entries]

        async def remove(pipe: Pipeline) -> None:
            pipe.multi()
            pipe.unlink(*map(self._model, names))
            pipe.srem(self._unfinished, *names)

        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._server.do(self._redis.transaction, remove)
        except TimeoutError as error:
            raise StoreError(self._where, "it does not answer") from error

    async def _sweep(self) -> None:
        """Remove what no commit names."""

        async def remove(pipe: Pipeline) -> None:
            await self._lock.check(pipe)
            if left := await pipe.smembers(self._unfinished):
                pipe.multi()
                pipe.unlink(self._unfinished, *(self._model(in_text(name)) for name in left))

        await self._redis.transaction(remove, self._lock.key, self._unfinished)

    # Reading.

    async def _read(self, federation_id: str, entry: Entry) -> Stored:
        key = self._model(entry.name)
        place, lost = f"{self._where}, key {key!r}", f"it is lost; {EVICTS}"
        record, digest = await self._server.do(self._redis.hmget, key, [RECORD, DIGEST])
        if record is None or digest is None:
            raise Unreadable(place, lost)
        chunks = await self._server.do(self._redis.hlen, key) - 2
        try:
            facts = Record.from_text(in_bytes(record))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise Unreadable(place, f"its record is damaged: {error!r}") from error
        if chunks != -(-facts.manifest.size_bytes // CHUNK_BYTES):
            raise Unreadable(place, f"it has {chunks} chunks, which its record does not say; {EVICTS}")
        try:
            stored = facts.make()
        except MemoryError as error:
            raise StoreError(place, "there is no memory to read it into") from error
        room = stored.model.buffer
        for number, start in enumerate(range(0, len(room), CHUNK_BYTES)):
            chunk = await self._server.do(self._redis.hget, key, str(number))
            if chunk is None:
                raise Unreadable(place, lost)
            if len(chunk) != len(room[start : start + CHUNK_BYTES]):
                raise Unreadable(place, "its length is not what its record says")
            room[start : start + CHUNK_BYTES] = np.frombuffer(in_bytes(chunk), np.uint8)
        if await self._worker.do(_digest, in_bytes(record), stored.model) != in_bytes(digest).decode(errors="replace"):
            raise Unreadable(place, "its content is not what was written")
        return stored

    async def _quarantine(self, federation_id: str, entry: Entry) -> str | None:
        source, aside = self._model(entry.name), self._key("quarantine", entry.name)
        if not await self._server.do(self._redis.exists, source):
            return None
        await self._server.do(self._redis.rename, source, aside)
        self._aside.append(aside)
        return f"the key {aside!r}"

    # The end.

    async def _forget(self) -> None:
        """Let others have the prefix, and remove all keys if nobody could find them."""
        if not self.is_durable:
            await self._sweep()
            keys = [self._federations, *self._aside]
            for federation in map(in_text, await self._redis.lrange(self._federations, 0, -1)):
                facts, owners = self._key("federation", federation), self._key("owners", federation)
                if arrays := await self._redis.hget(facts, "arrays"):
                    keys.append(self._model(in_text(arrays)))
                for owner in await self._redis.smembers(owners):
                    index = self._key("index", federation, in_text(owner))
                    keys += [index, *(self._model(in_text(name)) for name in await self._redis.lrange(index, 0, -1))]
                keys += [facts, owners, self._key("rounds", federation)]
            await self._redis.unlink(*keys)
        await self._lock.release()

    def _lost(self, what: str) -> StoreError:
        return StoreError(self._where, f"it lost {what} under the prefix {self._prefix!r}; {EVICTS}")

    async def _tidy(self, call: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove what nobody needs any more, if the server is there."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._server.once(call, *args, **kwargs)
        except (MetisError, OSError) as error:
            logger.warning("keys under %r stay in %s: %s", self._prefix, self._where, error)


def _digest(record: bytes, model: Model) -> str:
    return digest_of([record, *(bytes_of(array) for array in model.arrays())])
