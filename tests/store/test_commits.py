"""What every model store keeps to, of federations and their commits."""

from __future__ import annotations

import secrets
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from stores import FEDERATION, OWNERS, Directory, Place, keep, model_of, same, versions

from metisfl_async import ConfigError
from metisfl_async.errors import StoreError
from metisfl_async.store.base import BEST, GLOBAL
from metisfl_async.store.durable import BATCH

lasting = pytest.mark.parametrize("place", ["Disk", "Redis"], indirect=True)


async def test_before_a_federation_is_begun_nothing_can_be_kept(place: Place) -> None:
    async with place.open(1, None) as store:
        assert await store.unfinished() is None
        for attempt in (store.insert("a", model_of(1)), store.commit("", model=model_of(1))):
            with pytest.raises(StoreError, match="no federation was begun"):
                await attempt
        for owner in (GLOBAL, "a"):
            assert await store.latest(owner) is None
            assert await store.lineage(owner) == []
            await store.erase(owner)
        assert [text async for text in store.rounds()] == []
        with pytest.raises(StoreError):
            await store.resume(FEDERATION)


async def test_global_models_and_arrays_come_with_a_commit_only(place: Place) -> None:
    async with place.open(1) as store:
        with pytest.raises(ConfigError, match="owner is ''; allowed: a learner's id"):
            await store.insert(GLOBAL, model_of(1))
        with pytest.raises(ConfigError, match=r"arrays is \['sum'\]; allowed: none without a model"):
            await store.commit("", arrays={"sum": np.ones(3)})
        with pytest.raises(ConfigError, match="array 'sum' is 'complex128'; allowed: a NumPy array of float16"):
            await store.commit("", model=model_of(1), arrays={"sum": np.ones(3, np.complex128)})
        assert await store.latest(GLOBAL) is None
        assert not place.count()


async def test_a_federation_is_unfinished_until_a_commit_says_otherwise(place: Place) -> None:
    async with place.open(1) as store:
        assert await store.unfinished() == FEDERATION
        await store.commit("one", model=model_of(1))
        assert await store.unfinished() == FEDERATION
        await store.commit("two", is_finished=True)
        assert await store.unfinished() is None


async def test_texts_of_rounds_come_back_in_order_from_any_on(place: Place) -> None:
    texts = [f"{number} ü\n" for number in range(3 * BATCH + 1)]
    async with place.open(1) as store:
        await store.commit("", rounds=texts[:1])
        await store.commit("", model=model_of(1), rounds=texts[1 : 2 * BATCH])
        await store.commit("")
        await store.commit("", rounds=texts[2 * BATCH :])
        for start in (0, 1, BATCH, 3 * BATCH, 3 * BATCH + 1, 1000):
            assert [text async for text in store.rounds(start)] == texts[start:]


async def test_an_id_is_used_once(place: Place) -> None:
    async with place.open(1) as store:
        await store.commit("", model=model_of(1))
        with pytest.raises(StoreError, match=f"it has a federation '{FEDERATION}' already"):
            await store.begin(FEDERATION, "")
        assert await versions(store) == [1]


async def test_a_new_federation_has_none_of_the_models_before(place: Place) -> None:
    async with place.open(1) as store:
        await store.insert("a", model_of(1))
        await store.commit("", model=model_of(1), rounds=["text"])
        await store.insert("a", model_of(2))
        await store.begin("another", "")
        assert await store.unfinished() == "another"
        assert await versions(store) == await versions(store, "a") == []
        assert [text async for text in store.rounds()] == []


@lasting
async def test_what_was_committed_is_there_again(place: Place) -> None:
    async with place.open(3) as store:
        for version in range(12):  # so that there is a tenth after a ninth
            for number, owner in enumerate(OWNERS):
                await keep(store, owner, model_of(version), number)
    async with place.open(3) as store:
        for number, owner in enumerate(OWNERS):
            assert await versions(store, owner) == [9, 10, 11]
            assert same(await store.latest(owner), model_of(11), number or 1)
        await store.insert("a", model_of(1))
        await store.erase("*")
        await store.commit("", model=model_of(12))
        assert await versions(store) == [10, 11, 12]
    async with place.open(3) as store:
        assert await versions(store) == [10, 11, 12]
        assert await versions(store, "a") == [1]
        assert await versions(store, "*") == []


@lasting
async def test_a_federation_goes_on_as_of_its_last_commit(place: Place) -> None:
    arrays = {"sum/\n": np.arange(6.0).reshape(2, 3), "": np.array(7, np.int64), "b": np.ones(2, ml_dtypes.bfloat16)}
    async with place.open(1, None) as store:
        await store.begin(FEDERATION, "begun")
        saved = await store.resume(FEDERATION)
        assert (saved.federation_id, saved.standing, saved.version, saved.arrays) == (FEDERATION, "begun", None, {})
        await store.commit("first", model=model_of(4), arrays={"old": np.ones(5)})
        for owner in ("a", "b"):
            await store.insert(owner, model_of(1), 0.5, f"task of {owner}")
        await store.commit("second", model=model_of(5), arrays=arrays)
        await store.commit("third", rounds=["one", "two"])
        await store.insert("a", model_of(2))
        await store.insert("c", model_of(2))
        await store.erase("b")
        assert await versions(store, "a") == [2]
        assert await store.latest("b") is None
    async with place.open(1, None) as store:
        assert await store.unfinished() == FEDERATION
        for _ in range(2):
            saved = await store.resume(FEDERATION)
            assert (saved.federation_id, saved.standing, saved.version) == (FEDERATION, "third", 5)
            assert list(saved.arrays) == list(arrays)
            for name, array in saved.arrays.items():
                assert (array.dtype, array.shape) == (arrays[name].dtype, arrays[name].shape)
                assert array.tobytes() == arrays[name].tobytes()
                array[...] = 0  # they are the caller's own
            assert await versions(store) == [5]
            for owner in ("a", "b"):
                kept = await store.latest(owner)
                assert same(kept, model_of(1), 0.5)
                assert kept is not None
                assert kept.task_id == f"task of {owner}"
            assert await store.latest("c") is None
            assert [text async for text in store.rounds()] == ["one", "two"]
            assert place.count() == 4
            await store.insert("a", model_of(3))  # it goes as well when the federation is resumed
        await store.commit("fourth", model=model_of(6), is_finished=True)
        saved = await store.resume(FEDERATION)
        assert (saved.standing, saved.version, saved.arrays) == ("fourth", 6, {})
        assert place.count() == 3
    async with place.open(1, None) as store:
        assert await store.unfinished() is None


async def test_the_best_model_comes_with_a_commit_and_stays_whatever_the_length(place: Place) -> None:
    async with place.open(2) as store:
        with pytest.raises(ConfigError, match="allowed: a learner's id"):
            await store.insert(BEST, model_of(1))
        for version in range(5):
            await store.commit("", model=model_of(version), best=model_of(version) if version in (0, 1) else None)
        assert await versions(store) == [3, 4]
        assert await versions(store, BEST) == [1]
        assert place.count() in (None, 3)
        await store.insert("best", model_of(7))
        assert await versions(store, BEST) == [1]
        assert await versions(store, "best") == [7]


@lasting
async def test_the_best_model_is_there_again_as_of_the_last_commit(place: Place) -> None:
    async with place.open(1) as store:
        await store.commit("", model=model_of(1), best=model_of(1))
        await store.commit("", model=model_of(2))
    for _ in range(2):
        async with place.open(1) as store:
            assert same(await store.latest(BEST), model_of(1))
            assert place.count() == 2
    async with place.open(1) as store:
        await store.commit("", best=model_of(2))
        assert await versions(store, BEST) == await versions(store) == [2]


@lasting
async def test_federations_at_one_place_are_kept_apart(place: Place) -> None:
    first, second = FEDERATION, "../" * 20 + "ü"
    async with place.open(2, None) as store:
        for number, federation in enumerate((first, second)):
            await store.begin(federation, "")
            for version in range(3):
                await store.insert("a", model_of(10 * number + version))
                await store.commit(f"{number}", model=model_of(10 * number + version), rounds=[f"{number} {version}"])
            await store.commit(f"{number}", is_finished=federation == second)
        assert await store.unfinished() is None
    async with place.open(2, None) as store:
        assert place.count() == 8
        for number, federation in enumerate((first, second)):
            assert (await store.resume(federation)).standing == f"{number}"
            for owner in (GLOBAL, "a"):
                assert await versions(store, owner) == [10 * number + 1, 10 * number + 2]
            assert [text async for text in store.rounds()] == [f"{number} {version}" for version in range(3)]
        with pytest.raises(StoreError, match="it has no federation 'a third'"):
            await store.resume("a third")
        assert await store.lineage(GLOBAL) == []
        if isinstance(place, Directory):
            for path in Path(place.options["directory"]).parent.parent.rglob("*"):
                assert path.is_relative_to(place.options["directory"]) or path in place.options["directory"].parents


@lasting
async def test_another_lineage_length_holds_from_the_next_commit_on(place: Place) -> None:
    async with place.open(0) as store:
        for version in range(5):
            await keep(store, "a", model_of(version))
    async with place.open(2) as store:
        assert await versions(store, "a") == [3, 4]
        await keep(store, "a", model_of(5))
        assert await versions(store, "a") == [4, 5]
        assert place.count() == 2
    async with place.open(4) as store:
        await store.insert("a", model_of(6))
        assert await versions(store, "a") == [4, 5, 6]


@lasting
async def test_a_damaged_model_is_named_once_and_not_used_any_more(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for gone in (False, True):
        async with place.open(3, secrets.token_hex(16)) as store:
            for version in range(3):
                await store.insert("a", model_of(version))
            await store.commit("")
            place.damage(gone=gone)
            caplog.clear()
            assert await versions(store, "a") == [0, 1]
            assert len(caplog.records) == 1
            place.damage(gone=gone)
            with pytest.raises(StoreError) as caught:
                await store.latest("a")
            assert caught.value.where in caplog.text
            assert await versions(store, "a") == [0]
            await keep(store, "a", model_of(3))
            assert await versions(store, "a") == [0, 3]
            assert same(await store.latest("a"), model_of(3))


@lasting
async def test_without_its_rules_arrays_a_federation_does_not_go_on(place: Place) -> None:
    async with place.open(1) as store:
        await store.commit("", model=model_of(1), arrays={"sum": np.ones(3)})
        place.damage()
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.resume(FEDERATION)
            assert await store.latest(GLOBAL) is None
        await store.begin("another", "")
        await keep(store, GLOBAL, model_of(2))
        assert await versions(store) == [2]
