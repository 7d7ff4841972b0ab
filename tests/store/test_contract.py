"""What every model store keeps to."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import redis
from federations import nothing_left_behind

from metisfl_async import Model, ModelStoreConfig
from metisfl_async.core.model import DTYPES
from metisfl_async.store.base import GLOBAL, ModelStore, Stored
from metisfl_async.store.by_name import new_store

OWNERS = [GLOBAL, "global", "a/b", "..", ".", "ü", "Ü", "u\u0308", "*", ":", "a:b", "%2F", "a b", "[a]", "?", "x" * 128]
LARGE = 300_000  #: elements; more than is handled on the loop


def model_of(version: int, size: int = 3) -> Model:
    return Model.from_arrays([np.full(size, version, np.float32)], version=version)


async def versions(store: ModelStore, owner: str = GLOBAL) -> list[int]:
    return [kept.model.version for kept in await store.lineage(owner)]


def same(kept: Stored | None, model: Model, weight: float = 1.0) -> bool:
    return (
        kept is not None
        and kept.weight == weight
        and kept.model.manifest == model.manifest
        and kept.model.version == model.version
        and kept.model.buffer.tobytes() == model.buffer.tobytes()
    )


class Place:
    """Where a store keeps its models, which it may be opened on again and again."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @asynccontextmanager
    async def open(self, length: int) -> AsyncIterator[ModelStore]:
        store = new_store(ModelStoreConfig(lineage_length=length, **self.options))
        try:
            await store.open()
            yield store
        finally:
            await store.close()
            await store.close()

    def count(self) -> int | None:
        """Count the models that take room, those that nobody could read included; None if there is no telling."""
        return None


class Directory(Place):
    def count(self) -> int:
        return sum(path.is_file() for path in Path(self.options["directory"]).rglob("*"))


class Prefix(Place):
    def count(self) -> int:
        with redis.Redis(port=self.options["model_store_port"], decode_responses=True) as client:
            keys = list(client.scan_iter(f"{self.options['key_prefix']}:*"))
        return sum(":index:" not in key for key in keys)


@pytest.fixture(params=["InMemory", "Disk", "Redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "Disk":
            return Directory(model_store="Disk", directory=tmp_path / "some" / "models")
        case "Redis":
            port = request.getfixturevalue("redis_server").port
            return Prefix(model_store="Redis", model_store_port=port, key_prefix=secrets.token_hex(8))
        case _:
            return Place()


lasting = pytest.mark.parametrize("place", ["Disk", "Redis"], indirect=True)


@pytest.mark.parametrize(
    ("length", "kept"),
    [(0, [0, 1, 2, 3, 4]), (1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 3, 4])],
)
async def test_exactly_so_many_are_kept_of_each_owner_oldest_first(place: Place, length: int, kept: list[int]) -> None:
    async with place.open(length) as store:
        for version in range(5):
            await store.insert(GLOBAL, model_of(version))
            await store.insert("a", model_of(10 + version))
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
            await store.insert(owner, model_of(number), number)
        for number, owner in enumerate(OWNERS):
            assert same(await store.latest(owner), model_of(number), number)
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


async def test_a_cancelled_insertion_has_happened_whole_or_not_at_all(place: Place) -> None:
    async with nothing_left_behind(), place.open(2) as store:
        await store.insert("a", model_of(0, LARGE))
        before = [0]
        outcomes = set()
        steps = 0
        while True:
            inserting = asyncio.create_task(store.insert("a", model_of(steps + 1, LARGE)))
            for _ in range(steps):
                await asyncio.sleep(0)
            inserting.cancel()
            await asyncio.wait([inserting])
            after = await versions(store, "a")
            outcomes.add("before" if after == before else "after")
            assert after in (before, [*before, steps + 1][-2:])
            assert same(await store.latest("a"), model_of(after[-1], LARGE))
            assert place.count() in (None, len(after))
            before = after
            if not inserting.cancelled():
                break
            steps = max(steps + 1, steps * 5 // 4)  # one with a server behind it takes thousands
        assert outcomes == {"before", "after"}


@lasting
async def test_what_was_kept_is_there_again(place: Place) -> None:
    async with place.open(3) as store:
        for version in range(12):  # so that there is a tenth after a ninth
            for number, owner in enumerate(OWNERS):
                await store.insert(owner, model_of(version), number)
    async with place.open(3) as store:
        for number, owner in enumerate(OWNERS):
            assert await versions(store, owner) == [9, 10, 11]
            assert same(await store.latest(owner), model_of(11), number)
        await store.insert("a", model_of(1))
        await store.insert(GLOBAL, model_of(12))
        assert await versions(store) == [10, 11, 12]
        await store.erase("*")
    async with place.open(3) as store:
        assert await versions(store) == [10, 11, 12]
        assert await versions(store, "a") == [1]
        assert await versions(store, "*") == []


@lasting
async def test_another_lineage_length_holds_from_the_next_opening_on(place: Place) -> None:
    async with place.open(0) as store:
        for version in range(5):
            await store.insert("a", model_of(version))
    async with place.open(2) as store:
        assert await versions(store, "a") == [3, 4]
        await store.insert("a", model_of(5))
        assert await versions(store, "a") == [4, 5]
        assert place.count() == 2
    async with place.open(4) as store:
        await store.insert("a", model_of(6))
        assert await versions(store, "a") == [4, 5, 6]


@lasting
async def test_killed_in_the_middle_it_has_all_that_was_inserted_and_nothing_else(place: Place) -> None:
    script = Path(__file__).with_name("killed.py")
    options = {name: str(value) if isinstance(value, Path) else value for name, value in place.options.items()}
    for trial in range(5):
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(script), json.dumps(options), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        for _ in range(3 + trial):
            said = int(await child.stdout.readline())
        child.kill()
        said = max([said, *map(int, (await child.stdout.read()).split())])
        await child.wait()
        async with place.open(3) as store:
            assert await versions(store, "a") in ([said - 2, said - 1, said], [said - 1, said, said + 1])
            for kept in await store.lineage("a"):
                assert same(kept, model_of(kept.model.version, LARGE))
            assert place.count() in (3, 4)  # the oldest goes after the newest has come, or at the next insertion
            await store.erase("a")
            assert place.count() == 0
