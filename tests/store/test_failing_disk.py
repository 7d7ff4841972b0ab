"""A disk on which any write, flush, rename or statement may fail."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing import Failing
from federations import nothing_left_behind
from stores import FEDERATION, model_of, versions

from metisfl_async import ModelStoreConfig
from metisfl_async.errors import StoreError
from metisfl_async.store.base import GLOBAL, Saved
from metisfl_async.store.disk import DiskStore
from metisfl_async.store.journal import Journal

pytestmark = pytest.mark.slow


def store_in(directory: Path) -> DiskStore:
    return DiskStore(ModelStoreConfig(model_store="Disk", directory=directory, lineage_length=2))


async def commit(store: DiskStore) -> None:
    await store.commit("after", model=model_of(2), arrays={"sum": np.full(3, 2.0)}, rounds=["r1", "r2"])


async def small_commit(store: DiskStore) -> None:
    await store.commit("after", rounds=["r1", "r2"])


async def insert(store: DiskStore) -> None:
    await store.insert("new", model_of(2), 2.0, "task")


async def state(store: DiskStore) -> tuple[object, ...]:
    texts = [text async for text in store.rounds()]
    return (*[await versions(store, owner) for owner in (GLOBAL, "a", "b", "new")], texts)


def models_in(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*.safetensors"))


async def prepared(directory: Path) -> DiskStore:
    """Open a store that has a commit, and changes since then of all kinds."""
    store = store_in(directory)
    await store.open()
    await store.begin(FEDERATION, "begun")
    for version in (0, 1):
        for owner in ("a", "b"):
            await store.insert(owner, model_of(version))
        texts = ["r0"] if version == 0 else []
        await store.commit("before", model=model_of(version), arrays={"sum": np.full(3, 1.0)}, rounds=texts)
    await store.insert("a", model_of(2))
    await store.erase("b")
    return store


@pytest.mark.parametrize("operation", [insert, small_commit, commit])
@pytest.mark.parametrize("goes_on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
async def test_whatever_fails_leaves_what_was_and_can_be_done_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: Callable[[DiskStore], Awaitable[None]],
    goes_on: bool,
    is_late: bool,
) -> None:
    failing = Failing(monkeypatch)
    failing.goes_on, failing.is_late = goes_on, is_late
    store = await prepared(tmp_path / "good")
    before = await state(store)
    await operation(store)
    after = await state(store)
    await store.commit("last", rounds=["r3"])
    last, count = await state(store), models_in(tmp_path)
    await store.close()
    failures = 0
    async with nothing_left_behind():
        for number in range(1, 1000):
            directory = tmp_path / f"{number}"
            store = await prepared(directory)
            failing.arm(number)
            try:
                await operation(store)
            except StoreError:
                failing.disarm()
                failures += 1
                assert await state(store) == before
                await operation(store)
            failing.disarm()
            assert await state(store) == after
            await store.commit("last", rounds=["r3"])
            assert await state(store) == last
            assert models_in(directory) == count or failing.has_happened  # it may be that one could not be removed
            await store.close()
            store = store_in(directory)
            await store.open()
            assert models_in(directory) == count
            saved = await store.resume(FEDERATION)
            assert saved.standing == "last"
            assert (saved.version, saved.arrays["sum"][0]) == ((2, 2.0) if operation is commit else (1, 1.0))
            assert await state(store) == last
            await store.close()
            if not failing.has_happened:
                break
    assert failures >= (12 if operation is commit else 5)


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
async def test_after_a_crash_that_follows_a_failure_one_commit_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    failing = Failing(monkeypatch)
    failing.goes_on, failing.is_late = True, is_late
    seen = set()
    for number in range(1, 1000):
        store = await prepared(tmp_path / f"{number}")
        failing.arm(number)
        with suppress(StoreError):
            await commit(store)
        failing.disarm()
        await store.close()
        store = store_in(tmp_path / f"{number}")
        await store.open()
        saved: Saved = await store.resume(FEDERATION)
        seen.add(saved.standing)
        assert saved.version is not None
        assert saved.arrays["sum"][0] == saved.version
        expected = [[0, 1], [0, 1], [0, 1], [], ["r0"]]
        if saved.standing == "after":
            expected = [[1, 2], [1, 2], [], [], ["r0", "r1", "r2"]]
        assert list(await state(store)) == expected
        await store.close()
        if not failing.has_happened:
            break
    assert seen == {"before", "after"}


@pytest.mark.parametrize("goes_on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
async def test_a_federation_that_could_not_be_begun_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool, is_late: bool
) -> None:
    failing = Failing(monkeypatch)
    failing.goes_on, failing.is_late = goes_on, is_late
    for number in range(1, 100):
        store = await prepared(tmp_path / f"{number}")
        failing.arm(number)
        try:
            await store.begin("another", "begun")
        except StoreError:
            failing.disarm()
            assert await versions(store) == [0, 1]
            await store.begin("another", "begun")
        failing.disarm()
        assert await versions(store) == []
        await store.commit("", model=model_of(5))
        assert (await store.resume("another")).version == 5
        await store.close()
        if not failing.has_happened:
            break
    assert number > 2


async def test_a_store_that_could_not_be_opened_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(monkeypatch)
    failing.goes_on = True
    await (await prepared(tmp_path)).close()
    async with nothing_left_behind():
        for number in range(1, 100):
            store = store_in(tmp_path)
            failing.arm(number)
            with suppress(StoreError):
                await store.open()
            failing.disarm()
            await store.close()
            if not failing.has_happened:
                break
    assert number > 3


async def test_what_a_commit_without_an_answer_has_written_stays_until_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await prepared(tmp_path)
    count, execute = models_in(tmp_path), Journal._execute

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Journal, "_execute", fail)
    with pytest.raises(StoreError, match="disk I/O error"):
        await commit(store)
    assert models_in(tmp_path) == count + 2  # for nobody knows whether the commit has happened
    monkeypatch.setattr(Journal, "_execute", execute)
    await commit(store)
    assert models_in(tmp_path) == 2 + 2 + 1
    await store.close()


async def test_a_file_is_on_the_disk_before_a_commit_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await prepared(tmp_path)
    done: list[str] = []
    fsync, replace, execute = os.fsync, Path.replace, Journal._execute

    def note_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).parent.name}")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append(f"replace {target.parent.name}")
        return replace(path, target)

    def note_execute(journal: Journal, statement: str, *values: Any) -> sqlite3.Cursor:
        done.append(statement.split(maxsplit=1)[0])
        return execute(journal, statement, *values)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(Journal, "_execute", note_execute)
    await commit(store)
    await store.close()
    files = [
        ".unfinished",
        "global",
        FEDERATION,
        ".unfinished",
        "arrays",
        FEDERATION,
    ]  # the folder of a file is in that
    written = [f"{'replace' if folder in ('global', 'arrays') else 'fsync'} {folder}" for folder in files]
    assert done[: len(written)] == written
    assert done[len(written)] == "BEGIN"
    assert done[-1] == "COMMIT"
