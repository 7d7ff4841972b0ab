"""What is particular to models in a server that others use as well, and that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import redis
from federations import PATIENCE_S, nothing_left_behind, until
from redis.asyncio.client import Pipeline
from redis_server import RedisServer

from metisfl_async import Model, ModelStoreConfig
from metisfl_async.errors import ModelLost, StoreError
from metisfl_async.store import redis as module
from metisfl_async.store import redis_server as redis_server_module
from metisfl_async.store.base import GLOBAL
from metisfl_async.store.redis import RedisStore

FEDERATION = "f"
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
        try:
            await store.open()
            if await store.unfinished() == FEDERATION:
                await store.resume(FEDERATION)
            else:
                await store.begin(FEDERATION, "")
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
        for name in ("sadd", "hset", "hget", "hlen", "transaction"):
            setattr(store._redis, name, self._wrap(getattr(store._redis, name)))

    def _wrap(self, command: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: object, **kwargs: object) -> object:
            self._left -= 1
            if self._left == 0 and not self._after:
                self._event()
            answer = await command(*args, **kwargs)
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
                for each in (store, unnamed):
                    for owner in ("a", "*", "x:index:a"):
                        await each.insert(owner, model)
                    await each.commit("", model=model, arrays={"sum": np.ones(3)}, rounds=["text"])
            assert await versions(store, "*") == await versions(unnamed, "*") == [7, 8]
            with my_redis_server.client() as server:
                (key,) = server.scan_iter("metisfl:*:lock:owner")
                damaged = server.lrange(key.replace("lock:owner", "index:f/a"), -1, -1)[0]
                server.hset(key.replace("lock:owner", f"model:{damaged}"), "digest", "no")
            with pytest.raises(StoreError, match="its content is not what was written"):
                await unnamed.latest("a")
            await unnamed.insert("a", MODELS[0])
        client.unlink(*(key for key in client.scan_iter() if key.startswith("p:[x]*:")))
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
        await first.commit("", rounds=["first"])
        await second.commit("", rounds=["second"])
        assert await versions(first, "index:a") == [1]
        assert await versions(second, "a") == [2]
        assert [text async for text in first.rounds()] == ["first"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["insertion", "commit"])
async def test_the_server_goes_and_comes_in_the_middle(my_redis_server: RedisServer, what: str, after: bool) -> None:
    server = my_redis_server

    def restart() -> None:
        server.kill()
        server.start()

    async with opened(server) as store:
        await store.commit("", model=MODELS[0])
        for number in range(1, 100):
            await store.insert("a", MODELS[1])
            await store.commit("")
            interrupted = Interrupted(store, number, restart, after=after)
            if what == "insertion":
                await store.insert("a", MODELS[2])
                has_happened = interrupted.disarm()
                await store.commit("")
            else:
                await store.insert("a", MODELS[2])
                await store.commit(f"{number}", model=MODELS[3], arrays={"sum": np.ones(3)}, rounds=[f"{number}"])
                has_happened = interrupted.disarm()
                assert await versions(store) == [[0, 3], [3, 3]][number > 1]
                assert [text async for text in store.rounds()] == [f"{each}" for each in range(1, number + 1)]
            assert await versions(store, "a") == [1, 2]
            with server.client() as client:
                kept = 2 + len(await store.lineage(GLOBAL)) + (what == "commit")
                assert sum(key.startswith("p:model:") for key in client.scan_iter()) == kept
                assert client.scard("p:unfinished:names") == 0
            await store.erase("a")
            if not has_happened:
                break
    assert number > 6


@pytest.mark.parametrize("what", ["insertion", "commit"])
async def test_a_server_that_loses_everything_is_said_to(my_redis_server: RedisServer, what: str) -> None:
    for number in range(1, 100):
        async with opened(my_redis_server) as store:
            await store.commit("", model=MODELS[1])

            def lose() -> None:
                my_redis_server.kill()
                my_redis_server.forget()
                my_redis_server.start()

            interrupted = Interrupted(store, number, lose)
            try:
                await store.insert("a", MODELS[2])
                await store.commit("", model=MODELS[2])
            except StoreError as error:
                why = str(error)
            else:
                why = ""
            if not interrupted.disarm():
                break
            assert "it lost" in why
            with pytest.raises(StoreError, match="it lost"):
                await store.commit("")
            with pytest.raises(StoreError, match=r"it lost|it is lost"):
                await store.latest(GLOBAL)
            await store.begin(f"{number}", "")
            await store.commit("", model=MODELS[3])
            assert await versions(store) == [3]
    assert number > 6


async def test_while_the_server_is_away_everybody_waits_and_says_so(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server_module, "PATIENCE_S", PATIENCE_S)
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


async def test_a_server_that_stays_away_is_named_and_all_goes_on_when_it_is_back(
    my_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server_module, "PATIENCE_S", 0.1)
    named = f"Redis at 127.0.0.1:{my_redis_server.port}: .*Connect"
    async with opened(my_redis_server) as store:
        await store.insert("a", MODELS[1])
        await store.commit("one", model=MODELS[1], rounds=["one"])
        for number in (2, 3):
            my_redis_server.stop()
            for attempt in (
                store.insert("a", MODELS[2]),
                store.commit("two", model=MODELS[2], rounds=["two"]),
                store.latest("a"),
                store.begin("g", ""),
                store.unfinished(),
            ):
                with pytest.raises(StoreError, match=named):
                    await attempt
            my_redis_server.start()
            assert await versions(store) == await versions(store, "a") == list(range(1, number))[-2:]
            await store.insert("a", MODELS[number])
            await store.commit("two", model=MODELS[number], rounds=["two"])
    async with opened(my_redis_server) as store:
        assert await versions(store) == await versions(store, "a") == [2, 3]
        assert [text async for text in store.rounds()] == ["one", "two", "two"]


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


async def test_a_commit_that_was_given_up_cannot_succeed_late(
    my_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been sent and was not answered; meanwhile somebody has looked whether it has happened."""
    async with opened(my_redis_server) as store:
        execute, tries = Pipeline.execute, 0

        async def execute_late(pipe: Pipeline) -> object:
            nonlocal tries
            if (tries := tries + 1) == 1:
                assert await store._count_commits(FEDERATION) == 0
                with pytest.raises(redis.WatchError):
                    await execute(pipe)
                raise redis.ResponseError("it is given up")
            return await execute(pipe)

        monkeypatch.setattr(Pipeline, "execute", execute_late)
        with pytest.raises(StoreError, match="it is given up"):
            await store.commit("late", model=MODELS[1], rounds=["text"])
        assert await versions(store) == []
        assert [text async for text in store.rounds()] == []


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_commit_whose_answer_was_lost_happens_once(
    my_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """Whether it has happened is found out at once, or the server is away for that long and it is tried again."""
    monkeypatch.setattr(redis_server_module, "PATIENCE_S", 0.1)
    async with opened(my_redis_server, length=1) as store:
        await store.insert("a", MODELS[0])
        await store.insert("b", MODELS[0])
        await store.commit("", model=MODELS[0], arrays={"sum": np.zeros(3)}, rounds=["zero"])
        await store.insert("a", MODELS[1])
        await store.erase("b")
        transaction = store._redis.transaction

        async def without_answer(*args: Any) -> None:
            await transaction(*args)
            if not is_known:
                my_redis_server.stop()
            raise redis.ResponseError("the answer got lost")

        store._redis.transaction = without_answer  # type: ignore[method-assign,assignment]
        committing = store.commit("one", model=MODELS[1], arrays={"sum": np.ones(3)}, rounds=["one", "two"])
        if is_known:
            await committing
        else:
            with pytest.raises(StoreError, match="the answer got lost"):
                await committing
            my_redis_server.start()
        store._redis.transaction = transaction  # type: ignore[method-assign]
        if not is_known:
            await store.commit("one", model=MODELS[1], arrays={"sum": np.ones(3)}, rounds=["one", "two"])
    async with opened(my_redis_server, length=1) as store:
        saved = await store.resume(FEDERATION)
        assert (saved.standing, saved.version, saved.arrays["sum"][0]) == ("one", 1, 1)
        assert (await versions(store), await versions(store, "a"), await versions(store, "b")) == ([1], [1], [])
        assert [text async for text in store.rounds()] == ["zero", "one", "two"]
        with my_redis_server.client() as client:
            assert sum(1 for _ in client.scan_iter("p:model:*")) == 3


@pytest.mark.parametrize("part", ["1", "2", "digest", "record"])
async def test_a_model_that_the_server_has_lost_in_part_is_named_and_put_aside(
    my_redis_server: RedisServer, part: str
) -> None:
    async with opened(my_redis_server) as store:
        await store.insert("a", MODELS[1])
        await store.commit("")
        with my_redis_server.client() as client:
            (key,) = client.scan_iter("p:model:*")
            client.hdel(key, part)
            aside = key.replace("model", "quarantine")
            with pytest.raises(StoreError, match=f"key '{key}': it .*evict.*it is now the key '{aside}'"):
                await store.latest("a")
            assert not client.exists(key)
            assert client.exists(aside)
        assert await store.latest("a") is None


async def test_no_flipped_bit_is_overlooked(my_redis_server: RedisServer) -> None:
    async with opened(my_redis_server) as store:
        await store.insert("a", MODELS[1], 2.0, "task")
        await store.commit("")
        with redis.Redis(port=my_redis_server.port) as client:
            (key,) = client.scan_iter("p:model:*")
            content = client.hgetall(key)
            for field, value in content.items():
                for place in range(0, len(value), 1 + len(value) // 40):
                    damaged = bytearray(value)
                    damaged[place] ^= 1 << place % 8
                    client.hset(key, mapping={**content, field: bytes(damaged)})
                    await store.resume(FEDERATION)
                    with pytest.raises(StoreError):
                        await store.latest("a")
            client.hset(key, mapping=content)
        await store.resume(FEDERATION)
        assert await versions(store, "a") == [1]


async def test_damaged_texts_are_named(my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(my_redis_server) as store:
        await store.commit("standing", rounds=["a", "b", "c"])
        with redis.Redis(port=my_redis_server.port) as client:
            client.lset(f"p:rounds:{FEDERATION}", 1, b"\xff" * 33)
            assert [text async for text in store.rounds()] == ["a", "", "c"]
            assert "a round's record, number 1, is left out" in caplog.text
            client.hset(f"p:federation:{FEDERATION}", "standing", b"\xff" * 33)
        with pytest.raises(ModelLost, match=f"how federation '{FEDERATION}' stands is damaged"):
            await store.resume(FEDERATION)


async def test_a_server_that_keeps_nothing_is_given_up(redis_server: RedisServer) -> None:
    async with opened(redis_server, "evicts") as store:
        with redis_server.client() as client:

            def evict() -> None:
                client.delete(*client.scan_iter("evicts:model:*"))

            for number in range(1, module.TRIES + 1):
                Interrupted(store, 7 * number, evict)  # each try is a SADD, five HSETs and a HLEN
            with pytest.raises(StoreError, match="it lost a model 10 times while that was written"):
                await store.insert("a", MODELS[1])
            assert not list(client.scan_iter("evicts:model:*"))
            assert not client.exists("evicts:unfinished:names")


async def test_what_the_server_refuses_is_raised_and_leaves_what_was(my_redis_server: RedisServer) -> None:
    async with opened(my_redis_server) as store:
        await store.insert("a", MODELS[1])
        await store.commit("", model=MODELS[1])
        with my_redis_server.client() as client:
            client.config_set("maxmemory", 1)
            for attempt in (store.insert("a", MODELS[2]), store.commit("", model=MODELS[2]), store.commit("")):
                with pytest.raises(StoreError, match=r"Redis at 127.0.0.1:\d+: .*command not allowed when used memory"):
                    await attempt
            client.config_set("maxmemory", 0)
            assert await versions(store) == await versions(store, "a") == [1]
            await store.commit("", model=MODELS[2])
            assert await versions(store) == [1, 2]
            assert sum(key.startswith("p:model:") for key in client.scan_iter()) == 3
    async with opened(my_redis_server) as store:
        with my_redis_server.client() as client:
            client.config_set("requirepass", "secret")
        await store._redis.connection_pool.disconnect()
        with pytest.raises(StoreError, match="Authentication required"):
            await store.latest("a")
