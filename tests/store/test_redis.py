"""What is particular to models in a server that others use as well, and that comes and goes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import redis
from federations import PATIENCE_S, nothing_left_behind, until
from redis.asyncio.client import Pipeline
from redis_server import RedisServer

from metisfl_async import ConfigError, Model, ModelStoreConfig, StoreError
from metisfl_async.store import redis as module
from metisfl_async.store.base import GLOBAL
from metisfl_async.store.by_name import new_store
from metisfl_async.store.redis import RedisStore

MODELS = [Model.from_arrays([np.full(1000, version, np.float32)], version=version) for version in range(9)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)  # so that a model of 4,000 bytes has several


@asynccontextmanager
async def opened(server: RedisServer, prefix: str | None = "p", length: int = 2) -> AsyncIterator[RedisStore]:
    config = ModelStoreConfig(
        model_store="Redis", model_store_port=server.port, key_prefix=prefix, lineage_length=length
    )
    store = RedisStore(config)
    async with asyncio.timeout(PATIENCE_S):
        await store.open()
        try:
            yield store
        finally:
            await store.close()


async def versions(store: RedisStore, owner: str = GLOBAL) -> list[int]:
    lineage = await store.lineage(owner)
    assert all((kept.model.arrays()[0] == kept.model.version).all() for kept in lineage)
    return [kept.model.version for kept in lineage]


class Interrupted:
    """Commands of a store's client, before (or after) the n-th of which something happens."""

    def __init__(self, store: RedisStore, number: int, event: Callable[[], object], *, after: bool = False) -> None:
        self._left, self._event, self._after = number, event, after
        for name in ("sadd", "hset", "hget", "lrange", "transaction"):
            setattr(store._redis, name, self._wrap(getattr(store._redis, name)))

    def _wrap(self, command: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: object) -> object:
            self._left -= 1
            if self._left == 0 and not self._after:
                self._event()
            answer = await command(*args)
            if self._left == 0 and self._after:
                self._event()
                raise redis.ConnectionError("the answer got lost")
            return answer

        return call

    def disarm(self) -> bool:
        """Let it happen no more; say whether it has."""
        has_happened, self._left = self._left <= 0, 0
        return has_happened


async def test_nobody_elses_keys_are_touched(my_redis_server: RedisServer) -> None:
    with my_redis_server.client() as client:
        strange = ["", "p", "p:", "p*", "p:q", "pp:index:", "p:model", "metisfl", "q:index:a", "[p]", "p:x:index:a"]
        for number, key in enumerate(strange):
            client.set(key, number)
        client.sadd("p:unfinished", "a")
        client.hset("q:model:1", "0", "a")
        async with opened(my_redis_server, "p:[x]*") as store, opened(my_redis_server, None) as unnamed:
            for model in MODELS:
                for owner in (GLOBAL, "a", "*", "x:index:a"):
                    await store.insert(owner, model)
                    await unnamed.insert(owner, model)
            assert await versions(store, "*") == await versions(unnamed, "*") == [7, 8]
            for owner in (GLOBAL, "a", "*", "x:index:a"):
                await store.erase(owner)
        assert [client.get(key) for key in strange] == [str(number) for number in range(len(strange))]
        assert client.smembers("p:unfinished") == {"a"}
        assert client.hgetall("q:model:1") == {"0": "a"}
        assert client.dbsize() == len(strange) + 2  # and nothing of ours is left


async def test_two_controllers_on_one_database_do_not_meet(redis_server: RedisServer) -> None:
    async with opened(redis_server, None) as first, opened(redis_server, None) as second:
        await first.insert("a", MODELS[1])
        await second.insert("a", MODELS[2])
        assert await versions(first, "a") == [1]
        assert await versions(second, "a") == [2]


async def test_prefixes_that_begin_alike_do_not_meet(redis_server: RedisServer) -> None:
    async with opened(redis_server, "s") as first, opened(redis_server, "s:index") as second:
        await first.insert("index:a", MODELS[1])
        await second.insert("a", MODELS[2])
        assert await versions(first, "index:a") == [1]
        assert await versions(second, "a") == [2]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("loses_all", [False, True], ids=["keeps", "loses"])
async def test_the_server_goes_and_comes_in_the_middle_of_an_insertion(
    my_redis_server: RedisServer, loses_all: bool, after: bool
) -> None:
    server = my_redis_server

    def restart() -> None:
        server.kill()
        if loses_all:
            server.forget()
        server.start()

    for number in range(1, 100):
        async with opened(server) as store:
            await store.insert("a", MODELS[1])
            interrupted = Interrupted(store, number, restart, after=after)
            await store.insert("a", MODELS[2])
            has_happened = interrupted.disarm()
            assert await versions(store, "a") == ([2] if loses_all and has_happened else [1, 2])
            with server.client() as client:
                kept = len(await store.lineage("a"))
                assert sum(key.startswith("p:model:") for key in client.scan_iter()) == kept
                assert client.scard("p:unfinished:names") == 0
            await store.erase("a")
            if not has_happened:
                break
    assert number > 6


async def test_while_the_server_is_away_everybody_waits_and_says_so(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(my_redis_server) as store:
        await store.insert("a", MODELS[1])
        my_redis_server.stop()
        inserting = asyncio.create_task(store.insert("a", MODELS[2]))
        reading = asyncio.create_task(store.latest("a"))
        said = f"the model store waits for Redis at 127.0.0.1:{my_redis_server.port}: "
        await until(lambda: caplog.text.count(said) >= 3)
        assert not inserting.done()
        my_redis_server.start()
        await asyncio.gather(inserting, reading)
        assert await versions(store, "a") == [1, 2]


async def test_cancelled_while_it_waits_for_a_server_nothing_is_left(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.1)
    async with nothing_left_behind():
        async with opened(my_redis_server, None) as store:
            await store.insert("a", MODELS[1])
            my_redis_server.stop()
            inserting = asyncio.create_task(store.insert("a", MODELS[2]))
            await until(lambda: "waits for" in caplog.text)
            inserting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await inserting
        assert "keys under 'metisfl:" in caplog.text
        caplog.clear()
        opening = asyncio.create_task(opened(my_redis_server).__aenter__())
        await until(lambda: "waits for" in caplog.text)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening


async def test_an_insertion_that_was_given_up_cannot_succeed_late(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(redis_server, "late") as store:
        fields = await store._write("late", MODELS[1], 1.0)
        execute = Pipeline.execute

        async def execute_late(pipe: Pipeline) -> object:
            monkeypatch.setattr(Pipeline, "execute", execute)
            await store._discard("a", "late")
            return await execute(pipe)

        monkeypatch.setattr(Pipeline, "execute", execute_late)
        assert not await store._commit("a", "late", fields)
        assert await versions(store, "a") == []


async def test_readers_never_see_half_a_model(redis_server: RedisServer) -> None:
    """One reads all the time while another inserts, and the oldest are dropped under the reader's hands."""
    async with opened(redis_server, "half") as writer, opened(redis_server, "half") as reader:
        await writer.insert("a", MODELS[0])
        writing = asyncio.create_task(_insert_all(writer))
        seen = []
        while not writing.done():
            lineage = await versions(reader, "a")
            assert lineage == list(range(lineage[0], lineage[-1] + 1))
            seen.append(lineage[-1])
        await writing
        assert seen == sorted(seen)
        assert await versions(reader, "a") == [7, 8]
        await writer.erase("a")


async def _insert_all(store: RedisStore) -> None:
    for model in MODELS[1:]:
        await store.insert("a", model)


async def test_a_model_that_is_dropped_while_it_is_read_makes_the_reader_look_again(redis_server: RedisServer) -> None:
    async with opened(redis_server, "again", 1) as writer, opened(redis_server, "again", 1) as reader:
        await writer.insert("a", MODELS[1])
        begun = asyncio.Event()
        Interrupted(reader, 4, begun.set)  # it has the list, the record and a chunk
        hget, may_go_on = reader._redis.hget, asyncio.Event()

        async def hget_later(*args: Any) -> object:
            if begun.is_set():
                await may_go_on.wait()
            return await hget(*args)

        reader._redis.hget = hget_later  # type: ignore[method-assign,assignment]
        reading = asyncio.create_task(reader.latest("a"))
        await begun.wait()
        await writer.insert("a", MODELS[2])
        may_go_on.set()
        kept = await reading
        assert kept is not None
        assert kept.model.version == 2
        await writer.erase("a")


async def test_a_model_that_the_server_has_lost_is_named(redis_server: RedisServer) -> None:
    async with opened(redis_server, "lost") as store:
        await store.insert("a", MODELS[1])
        with redis_server.client() as client:
            (key,) = client.scan_iter("lost:model:*")
            client.hdel(key, "2")
            with pytest.raises(StoreError, match="it lost a model of 'a' under the prefix 'lost'; does its maxmemory"):
                await store.latest("a")
            client.delete(key)
        with pytest.raises(StoreError, match="it lost a model of 'a'"):
            await store.lineage("a")
        await store.erase("a")


async def test_a_server_that_keeps_nothing_is_given_up(redis_server: RedisServer) -> None:
    async with opened(redis_server, "evicts") as store:
        with redis_server.client() as client:

            def evict() -> None:
                client.delete(*client.scan_iter("evicts:model:*"))

            for number in range(1, module.TRIES + 1):
                Interrupted(store, 7 * number, evict)  # each try is a SADD, five HSETs and a transaction
            with pytest.raises(StoreError, match="it lost a model 10 times while that was written"):
                await store.insert("a", MODELS[1])
            assert not list(client.scan_iter("evicts:*"))


async def test_what_the_server_refuses_is_raised_and_leaves_what_was(my_redis_server: RedisServer) -> None:
    async with opened(my_redis_server) as store:
        await store.insert("a", MODELS[1])
        with my_redis_server.client() as client:
            client.set("p:index:b", "not a list")
            with pytest.raises(StoreError, match=r"Redis at 127.0.0.1:\d+: WRONGTYPE"):
                await store.insert("b", MODELS[2])
            assert sum(key.startswith("p:model:") for key in client.scan_iter()) == 2  # it could not look whose it is
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreError, match="command not allowed when used memory"):
                await store.insert("a", MODELS[2])
            client.config_set("maxmemory", 0)
            assert await versions(store, "a") == [1]
    async with opened(my_redis_server) as store:
        with my_redis_server.client() as client:
            assert sum(key.startswith("p:model:") for key in client.scan_iter()) == 1  # now it was removed
            client.config_set("requirepass", "secret")
        await store._redis.connection_pool.disconnect()
        with pytest.raises(StoreError, match="Authentication required"):
            await store.latest("a")


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "metisfl_async.store.redis")
    with pytest.raises(ConfigError, match=r"Redis after: pip install \"metisfl-async\[redis\]\""):
        new_store(ModelStoreConfig(model_store="Redis"))
