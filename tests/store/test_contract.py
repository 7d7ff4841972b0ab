"""What every model store keeps to, of models."""

from __future__ import annotations

import asyncio

import ml_dtypes
import numpy as np
import pytest
from federations import nothing_left_behind
from stores import LARGE, OWNERS, Place, keep, model_of, same, versions

from metisfl_async import Model
from metisfl_async.core.model import DTYPES
from metisfl_async.store.base import GLOBAL


@pytest.mark.parametrize(
    ("length", "kept"),
    [(0, [0, 1, 2, 3, 4]), (1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 3, 4])],
)
async def test_exactly_so_many_are_kept_of_each_owner_oldest_first(place: Place, length: int, kept: list[int]) -> None:
    async with place.open(length) as store:
        for version in range(5):
            await store.insert("a", model_of(10 + version))
            await store.commit("", model=model_of(version))
            newest = await store.latest(GLOBAL)
            assert newest is not None
            assert newest.model.version == version
        assert await versions(store) == kept
        assert await versions(store, "a") == [10 + version for version in kept]
        assert place.count() in (None, 2 * len(kept))


async def test_nobody_has_nothing(place: Place) -> None:
    async with place.open(1) as store:
        for owner in OWNERS:
            assert await store.latest(owner) is None
            assert await store.lineage(owner) == []
            await store.erase(owner)
        assert [text async for text in store.rounds()] == []


async def test_a_model_comes_back_exactly(place: Place) -> None:
    arrays = [np.array([0, 1, 1]).astype(dtype) for dtype in DTYPES.values()]
    arrays += [np.array(1.5).astype(dtype) for dtype in DTYPES.values()]  # 0-d
    arrays += [np.empty((3, 0, 2), dtype) for dtype in DTYPES.values()]
    arrays += [
        np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
        np.arange(24, dtype=ml_dtypes.bfloat16).reshape(2, 3, 4),
    ]
    names = ["__metadata__", "", "ü/..\n", 'a"b', *(f"layer/{index}" for index in range(len(arrays) - 4))]
    model = Model.from_arrays(arrays, names, version=2**40)
    async with place.open(1) as store:
        await store.insert("a", model, 0.1 + 0.2)
        assert same(await store.latest("a"), model, 0.1 + 0.2)
        (kept,) = await store.lineage("a")
        assert same(kept, model, 0.1 + 0.2)
        assert not kept.model.buffer.flags.writeable


@pytest.mark.parametrize("arrays", [[], [np.empty(0, np.float32)]], ids=["no tensor", "no element"])
async def test_a_model_without_bytes_comes_back(place: Place, arrays: list[np.ndarray]) -> None:
    async with place.open(2) as store:
        await store.insert("a", Model.from_arrays(arrays))
        assert same(await store.latest("a"), Model.from_arrays(arrays))


@pytest.mark.parametrize("weight", [1.0, 5e-324, 2.0**53, 1 / 3, -0.0])
async def test_weights_come_back_exactly(place: Place, weight: float) -> None:
    async with place.open(1) as store:
        await store.insert("a", model_of(1), weight)
        kept = await store.latest("a")
        assert kept is not None
        assert kept.weight.hex() == weight.hex()


async def test_a_large_model_comes_back(place: Place) -> None:
    model = Model.from_arrays([np.random.default_rng(1).integers(0, 256, 3_500_001, np.uint8), np.ones(5)])
    async with place.open(1) as store:
        await store.insert("a", model)
        assert same(await store.latest("a"), model)


async def test_owners_are_kept_apart_whatever_they_are_called(place: Place) -> None:
    async with place.open(1) as store:
        for number, owner in enumerate(OWNERS):
            await keep(store, owner, model_of(number), number)
        for number, owner in enumerate(OWNERS):
            assert same(await store.latest(owner), model_of(number), number or 1)
        await store.erase("*")
        await store.erase("..")
        left = [owner for owner in OWNERS if await store.latest(owner) is not None]
        assert left == [owner for owner in OWNERS if owner not in ("*", "..")]


async def test_what_is_erased_is_gone_and_may_come_again(place: Place) -> None:
    async with place.open(0) as store:
        for version in range(3):
            await store.insert("a", model_of(version))
        await store.erase("a")
        assert await store.latest("a") is None
        assert await store.lineage("a") == []
        await store.commit("")
        assert not place.count()
        await store.insert("a", model_of(7))
        assert await versions(store, "a") == [7]


@pytest.mark.parametrize("size", [3, LARGE])
async def test_the_buffer_is_the_callers_again_after_the_insertion(place: Place, size: int) -> None:
    async with place.open(1) as store:
        model = model_of(1, size)
        await store.insert("a", model)
        model.buffer[:] = 0
        assert same(await store.latest("a"), model_of(1, size))


async def test_many_insert_at_the_same_time_in_the_order_of_the_calls(place: Place) -> None:
    async with place.open(2) as store:
        async with asyncio.TaskGroup() as group:
            for version in range(4):
                for owner in ("a", "b", "c"):
                    size = LARGE if version % 2 == 0 else 3
                    group.create_task(store.insert(owner, model_of(version, size), version))
        for owner in ("a", "b", "c"):
            assert await versions(store, owner) == [2, 3]
            assert same(await store.latest(owner), model_of(3), 3)


@pytest.mark.parametrize("what", ["insertion", "commit"])
async def test_what_is_cancelled_has_happened_whole_or_not_at_all(place: Place, what: str) -> None:
    owner = "a" if what == "insertion" else GLOBAL
    async with nothing_left_behind(), place.open(2) as store:
        await keep(store, owner, model_of(0, LARGE))
        before, texts = [0], 0
        outcomes = set()
        steps = 0
        while True:
            model = model_of(steps + 1, LARGE)
            adding = store.insert("a", model) if what == "insertion" else store.commit("", model=model, rounds=["x"])
            task = asyncio.ensure_future(adding)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            after = await versions(store, owner)
            outcomes.add("before" if after == before else "after")
            assert after in (before, [*before, steps + 1][-2:])
            texts += what == "commit" and after != before
            assert len([text async for text in store.rounds()]) == texts
            assert same(await store.latest(owner), model_of(after[-1], LARGE))
            if what == "insertion":
                await store.commit("")
            assert place.count() in (None, len(after))
            before = after
            if not task.cancelled():
                break
            steps = max(steps + 1, steps * 5 // 4)  # one with a server behind it takes thousands
        assert outcomes == {"before", "after"}


async def test_what_is_not_trained_is_remembered(place: Place) -> None:
    model = Model.from_arrays([np.zeros(2), np.ones(1)], ["w", "running_mean"], untrained=["running_mean"])
    async with place.open(1) as store:
        await store.insert("a", model)
        stored = await store.latest("a")
        assert stored is not None
        assert stored.model.manifest.untrained == (1,)
