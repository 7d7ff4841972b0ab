"""What is particular to models in memory."""

from __future__ import annotations

import sys

from federations import nothing_left_behind
from stores import FEDERATION, model_of

from metisfl_async import ModelStoreConfig
from metisfl_async.store.base import GLOBAL
from metisfl_async.store.memory import InMemoryStore


async def test_of_the_texts_of_rounds_the_latest_are_kept_and_the_others_counted() -> None:
    texts = [f"{number:03}" for number in range(100)]
    store = InMemoryStore(ModelStoreConfig(history_bytes=10 * sys.getsizeof(texts[0])))
    await store.begin(FEDERATION, "")
    await store.commit("", rounds=texts[:5])
    await store.commit("", rounds=texts[5:10])
    assert [text async for text in store.rounds()] == texts[:10]
    assert store.rounds_dropped == 0
    reading = store.rounds(8)
    assert await anext(reading) == "008"
    await store.commit("", rounds=texts[10:])
    assert store.rounds_dropped == 90
    assert [text async for text in reading] == texts[90:]  # it was too slow for those between
    assert [text async for text in store.rounds()] == texts[90:]
    assert [text async for text in store.rounds(95)] == texts[95:]
    await store.commit("", rounds=["x" * 10_000])
    assert [text async for text in store.rounds()] == []
    assert store.rounds_dropped == 101
    await store.begin("another", "")
    await store.commit("", rounds=["new"])
    assert [text async for text in store.rounds()] == ["new"]
    await store.close()


async def test_a_read_only_model_is_shared() -> None:
    async with nothing_left_behind():
        store = InMemoryStore(ModelStoreConfig())
        await store.begin(FEDERATION, "")
        model = model_of(1).freeze()
        await store.commit("", model=model)
        kept = await store.latest(GLOBAL)
        assert kept is not None
        assert kept.model is model
        await store.close()
