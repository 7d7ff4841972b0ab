"""What is particular to models in files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from federations import nothing_left_behind
from safetensors import safe_open
from stores import FEDERATION, model_of, versions

from metisfl_async import ConfigError, Model, ModelStoreConfig
from metisfl_async.core.model import DTYPES
from metisfl_async.errors import ModelLost, StoreError
from metisfl_async.store.base import GLOBAL
from metisfl_async.store.disk import DiskStore


def store_in(directory: Path, length: int = 1) -> DiskStore:
    return DiskStore(ModelStoreConfig(model_store="Disk", directory=directory, lineage_length=length))


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def test_files_have_plain_names_and_can_be_read_by_others(tmp_path: Path) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(1.5, ml_dtypes.bfloat16), np.ones(3, np.bool_)]
    names = ["kernel", "scale", "mask"]
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.insert("Klinik Süd/3", Model.from_arrays([]), 0.1, "task")
    model = Model.from_arrays(arrays, names, version=4)
    await store.commit("", model=model, arrays=dict(zip(names, arrays, strict=True)))
    await store.close()
    of_rule, of_all, of_learner, journal = files(tmp_path)
    assert of_rule == f"{FEDERATION}/arrays/0000000002.safetensors"
    assert of_all == f"{FEDERATION}/global/0000000001.safetensors"
    assert of_learner.startswith(f"{FEDERATION}/learner-Klinik-S-d-3-")
    assert journal == "journal.sqlite"
    for path in (of_all, of_rule):
        with safe_open(tmp_path / path, framework="np") as file:
            for number, array in enumerate(arrays):
                there = file.get_tensor(str(number))
                assert (there.dtype, there.shape) == (array.dtype, array.shape)
                assert there.tobytes() == array.tobytes()
            assert file.metadata()["owner"] == GLOBAL
            record = json.loads(file.metadata()["record"])
            assert record["tensors"] == [
                ["kernel", "float32", [2, 3]],
                ["scale", "bfloat16", []],
                ["mask", "bool", [3]],
            ]
            assert record["version"] == (4 if path == of_all else 0)
    with safe_open(tmp_path / of_learner, framework="np") as file:
        facts = {"version": 0, "weight": 0.1, "task_id": "task", "tensors": []}
        assert json.loads(file.metadata()["record"]) == facts


async def test_every_dtype_can_be_read_by_others(tmp_path: Path) -> None:
    model = Model.from_arrays([np.array([0, 1, 1]).astype(dtype) for dtype in DTYPES.values()])
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.commit("", model=model)
    await store.close()
    with safe_open(tmp_path / files(tmp_path)[0], framework="np") as file:
        for number, array in enumerate(model.arrays()):
            assert file.get_tensor(str(number)).dtype == array.dtype
            assert file.get_tensor(str(number)).tobytes() == array.tobytes()


async def test_what_a_crash_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.insert("a", model_of(1))
    await store.commit("", model=model_of(1))
    await store.insert("b", model_of(1))
    await store.close()
    home = tmp_path / FEDERATION
    (tmp_path / ".unfinished" / "0").write_bytes(b"half a model")
    (home / "global" / "0000000007.safetensors").write_bytes(b"a model that no commit names")
    (home / "arrays").mkdir()
    (home / "arrays" / "0000000008.safetensors").write_bytes(b"arrays that no commit names")
    (home / "global" / "notes.txt").write_text("mine")
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "0000000000.safetensors").write_text("mine")
    store = store_in(tmp_path)
    await store.open()
    await store.close()
    of_global, notes, of_learner, mine, journal = files(tmp_path)
    assert of_global == f"{FEDERATION}/global/0000000001.safetensors"
    assert (notes, mine) == (f"{FEDERATION}/global/notes.txt", "global/0000000000.safetensors")
    assert of_learner.startswith(f"{FEDERATION}/learner-a-")
    assert journal == "journal.sqlite"


async def test_two_stores_do_not_use_one_directory_at_a_time(tmp_path: Path) -> None:
    first, second = store_in(tmp_path), store_in(tmp_path)
    await first.open()
    with pytest.raises(ConfigError, match=r"directory is '.*'; allowed: a directory that no other open controller"):
        await second.open()
    await second.close()
    await first.close()
    third = store_in(tmp_path)
    await third.open()
    await third.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b" ",
        lambda whole: whole[:20],
        lambda whole: whole[:4],
        lambda whole: b"",
        lambda whole: b"\xff" * len(whole),
        lambda whole: whole.replace(b'"owner"', b'"other"').replace(b'"record"', b'"Record"'),
        lambda whole: whole.replace(b"float32", b"float99"),
        lambda whole: whole.replace(b"[[", b"[" * 5000 + b"[["),
    ],
    ids=[
        *("a byte short", "a byte more", "in the header", "in its length", "empty"),
        *("no header", "no record", "unknown dtype", "deep"),
    ],
)
async def test_a_damaged_file_is_named_and_put_aside(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.commit("", model=Model.from_arrays([np.ones(3, np.float32)]))
    path = tmp_path / FEDERATION / "global" / "0000000000.safetensors"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    aside = tmp_path / "quarantine" / f"{FEDERATION}-global-0000000000.safetensors"
    with pytest.raises(StoreError, match=r"the file is damaged: ") as caught:
        await store.latest(GLOBAL)
    assert caught.value.where == str(path)
    assert f"it is now {aside}" in str(caught.value)
    assert [record.getMessage() for record in caplog.records] == [f"a model is not used any more: {caught.value}"]
    assert await store.lineage(GLOBAL) == []
    assert aside.read_bytes() == damaged
    assert not path.exists()
    await store.close()
    store = store_in(tmp_path)  # the journal still names it
    await store.open()
    assert (await store.resume(FEDERATION)).version == 0
    with pytest.raises(StoreError, match="the file is not there"):
        await store.latest(GLOBAL)
    await store.close()


async def test_no_flipped_bit_is_overlooked(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.insert("a", Model.from_arrays([np.ones(30, np.float32)], ["kernel"], version=3), 2.0, "task")
    await store.commit("")
    (path,) = (tmp_path / FEDERATION).glob("learner-a-*/*.safetensors")
    (aside,) = (tmp_path / "quarantine" / f"{FEDERATION}-{path.parent.name}-{path.name}",)
    whole = path.read_bytes()
    for number in range(8 * len(whole)):
        if number % 8 != number // 8 % 8:
            continue  # one bit of each byte
        damaged = bytearray(whole)
        damaged[number // 8] ^= 1 << number % 8
        path.write_bytes(damaged)
        await store.resume(FEDERATION)
        with pytest.raises(StoreError, match="the file is damaged"):
            await store.latest("a")
        assert aside.read_bytes() == damaged
    path.write_bytes(whole)
    await store.resume(FEDERATION)
    assert await versions(store, "a") == [3]
    await store.close()


async def test_a_disk_that_fails_is_named_and_leaves_what_was(tmp_path: Path) -> None:
    async with nothing_left_behind():
        store = store_in(tmp_path / "models")
        await store.open()
        await store.begin(FEDERATION, "")
        await store.commit("", model=model_of(1))
        (tmp_path / "models" / ".unfinished").rename(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match=r"models: .*No such file") as caught:
            await store.commit("", model=model_of(2))
        assert caught.value.where == str(tmp_path / "models")
        assert await versions(store) == [1]
        (tmp_path / "elsewhere").rename(tmp_path / "models" / ".unfinished")
        await store.commit("", model=model_of(2))
        assert await versions(store) == [2]
        await store.close()


async def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = store_in(tmp_path / "file" / "models")
    with pytest.raises(StoreError, match=r"file/models: .*Not a directory"):
        await store.open()
    await store.close()


async def test_a_journal_that_is_none_is_named(tmp_path: Path) -> None:
    async with nothing_left_behind():
        (tmp_path / "journal.sqlite").write_bytes(b"something else" * 1000)
        store = store_in(tmp_path)
        with pytest.raises(StoreError, match="file is not a database"):
            await store.open()
        await store.close()


async def test_models_without_their_journal_are_not_begun_anew(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.commit("", model=model_of(1))
    await store.close()
    (tmp_path / "journal.sqlite").rename(tmp_path / "elsewhere")
    store = store_in(tmp_path)
    with pytest.raises(ModelLost, match=f"models in {FEDERATION}, which journal.sqlite does not know; was that file"):
        await store.open()
    await store.close()
    (tmp_path / "elsewhere").rename(tmp_path / "journal.sqlite")
    store = store_in(tmp_path)
    await store.open()
    await store.resume(FEDERATION)
    assert await versions(store) == [1]
    await store.close()


@pytest.mark.parametrize("place", [0, 5, 40, -1])
@pytest.mark.parametrize("bit", [0, 7])
async def test_a_damaged_standing_is_named(tmp_path: Path, place: int, bit: int) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "{}")
    await store.commit(json.dumps({"phase": "training"}))
    flip(tmp_path, "federations", "standing", place, bit)
    with pytest.raises(ModelLost, match=rf"how federation '{FEDERATION}' stands is damaged \(its content"):
        await store.resume(FEDERATION)
    await store.close()


@pytest.mark.parametrize("place", [0, 5, 40, -1])
@pytest.mark.parametrize("bit", [0, 7])
async def test_the_damaged_text_of_a_round_is_named_and_empty(
    tmp_path: Path, place: int, bit: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.begin(FEDERATION, "")
    await store.commit("", rounds=["a" * 40, "b" * 40, "c" * 40])
    flip(tmp_path, "rounds", "text", place, bit)
    assert [text async for text in store.rounds()] == ["a" * 40, "b" * 40, ""]
    assert f"a round's record, number 2, is left out: {tmp_path}: its content is not what was written" in caplog.text
    await store.close()


def flip(directory: Path, table: str, field: str, place: int, bit: int) -> None:
    """Flip a bit in the last text of a table."""
    with closing(sqlite3.connect(directory / "journal.sqlite")) as journal, journal:
        asked = f"SELECT rowid, {field} FROM {table} ORDER BY rowid DESC LIMIT 1"
        ((row, text),) = journal.execute(asked)
        damaged = bytearray(text.encode())
        damaged[place] ^= 1 << bit
        journal.execute(f"UPDATE {table} SET {field} = CAST(? AS TEXT) WHERE rowid = ?", (bytes(damaged), row))


async def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.open()
    pragmas = [await store._do(store._journal._all, f"PRAGMA {name}") for name in ("journal_mode", "synchronous")]
    assert pragmas == [[("wal",)], [(2,)]]
    await store.close()
