"""One controller at a time under a prefix, also after a crash."""

from __future__ import annotations

import asyncio

import pytest
from federations import PATIENCE_S, nothing_left_behind, until
from redis_server import RedisServer
from stores import model_of, versions

from metisfl_async import ModelStoreConfig
from metisfl_async.errors import StoreError
from metisfl_async.store import redis_lock as module
from metisfl_async.store.redis import RedisStore

KEY = "p:lock:owner"


def store_in(server: RedisServer) -> RedisStore:
    return RedisStore(ModelStoreConfig(model_store="Redis", model_store_port=server.port, key_prefix="p"))


@pytest.fixture(autouse=True)
def a_quick_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.05)
    monkeypatch.setattr(module, "LOOK_S", 0.01)


async def test_a_second_controller_is_refused_and_told_what_to_do(my_redis_server: RedisServer) -> None:
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind():
        first, second = store_in(my_redis_server), store_in(my_redis_server)
        await first.open()
        await first.begin("f", "")
        with pytest.raises(StoreError, match="uses the key_prefix 'p'; end one of the two, or choose another prefix"):
            await second.open()
        await second.close()
        await first.commit("", model=model_of(1))
        assert await versions(first) == [1]
        await first.close()
        third = store_in(my_redis_server)
        await third.open()  # at once: it was given back
        assert await third.unfinished() == "f"
        await third.close()
        with my_redis_server.client() as client:
            assert not client.exists(KEY)


async def test_what_a_crash_has_left_locked_is_taken_when_its_time_is_over(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with my_redis_server.client() as client:
        client.set(KEY, "crashed", px=1000)
        store = store_in(my_redis_server)
        async with asyncio.timeout(PATIENCE_S):
            opening = asyncio.create_task(store.open())
            await until(lambda: "the prefix 'p' of Redis at" in caplog.text)
            assert client.get(KEY) == "crashed"
            await opening
        assert client.get(KEY) != "crashed"
        await store.close()


async def test_who_waits_for_a_lock_can_be_cancelled(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with my_redis_server.client() as client:
        client.set(KEY, "crashed", px=1_000_000)
        async with asyncio.timeout(PATIENCE_S), nothing_left_behind():
            store = store_in(my_redis_server)
            opening = asyncio.create_task(store.open())
            await until(lambda: "the prefix 'p' of Redis at" in caplog.text)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            await store.close()
        assert client.get(KEY) == "crashed"


async def test_a_controller_whose_lock_was_taken_keeps_nothing_any_more(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with nothing_left_behind():
        store = store_in(my_redis_server)
        await store.open()
        await store.begin("f", "")
        await store.commit("", model=model_of(1))
        with my_redis_server.client() as client:
            client.set(KEY, "another")
            for attempt in (store.commit("", model=model_of(2)), store.begin("g", ""), store.resume("f")):
                with pytest.raises(StoreError, match="another controller uses the key_prefix 'p'"):
                    await attempt
            await until(lambda: "the lock of the model store was not renewed" in caplog.text)
            await store.close()
            assert client.get(KEY) == "another"
            assert client.hget("p:federation:f", "commits") == "1"
            assert sum(1 for _ in client.scan_iter("p:model:*")) == 1


async def test_a_lock_that_the_server_has_lost_is_taken_again(my_redis_server: RedisServer) -> None:
    store = store_in(my_redis_server)
    await store.open()
    with my_redis_server.client() as client:
        mine = client.get(KEY)
        client.delete(KEY)
        await until(lambda: client.get(KEY) == mine)
        assert 0 < client.pttl(KEY) <= module.LOCK_S * 1e3
        client.delete(KEY)
        await store.begin("f", "")
        client.delete(KEY)
        await store.commit("")
        assert client.get(KEY) == mine
    await store.close()


async def test_a_lock_is_renewed_for_as_long_as_it_is_held(
    my_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(my_redis_server)
    await store.open()
    with my_redis_server.client() as client:
        for _ in range(3):
            client.pexpire(KEY, 10_000)
            await until(lambda: client.pttl(KEY) > 20_000)
        my_redis_server.kill()
        my_redis_server.start()
        client.pexpire(KEY, 10_000)
        await until(lambda: client.pttl(KEY) > 20_000)
    await store.close()
