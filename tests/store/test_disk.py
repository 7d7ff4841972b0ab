"""What is particular to models in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from federations import nothing_left_behind
from safetensors import safe_open

from metisfl_async import ConfigError, Model, ModelStoreConfig, StoreError
from metisfl_async.store.base import GLOBAL
from metisfl_async.store.disk import DiskStore


def store_in(directory: Path, length: int = 1) -> DiskStore:
    return DiskStore(ModelStoreConfig(model_store="Disk", directory=directory, lineage_length=length))


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def test_files_have_plain_names_and_can_be_read_by_others(tmp_path: Path) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(1.5, ml_dtypes.bfloat16), np.ones(3, np.bool_)]
    store = store_in(tmp_path)
    await store.open()
    await store.insert(GLOBAL, Model.from_arrays(arrays, ["kernel", "scale", "mask"], version=4), 0.1)
    await store.insert("Klinik Süd/3", Model.from_arrays([]))
    await store.close()
    of_learner, of_all = files(tmp_path)[::-1]
    assert of_all == "global/0000000000.safetensors"
    assert of_learner.startswith("learner-Klinik-S-d-3-")
    with safe_open(tmp_path / of_all, framework="np") as file:
        for number, array in enumerate(arrays):
            there = file.get_tensor(str(number))
            assert (there.dtype, there.shape) == (array.dtype, array.shape)
            assert there.tobytes() == array.tobytes()
        assert file.metadata()["owner"] == GLOBAL
        assert json.loads(file.metadata()["record"]) == {
            "version": 4,
            "weight": 0.1,
            "tensors": [["kernel", "float32", [2, 3]], ["scale", "bfloat16", []], ["mask", "bool", [3]]],
        }


async def test_what_a_crash_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".unfinished" / "3").mkdir(parents=True)
    (tmp_path / ".unfinished" / "3" / "0000000000.safetensors").write_bytes(b"erased")
    (tmp_path / ".unfinished" / "0").write_bytes(b"half a model")
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "notes.txt").write_text("mine")
    store = store_in(tmp_path)
    await store.open()
    await store.insert(GLOBAL, Model.from_arrays([]))
    await store.insert(GLOBAL, Model.from_arrays([]))
    await store.close()
    assert files(tmp_path) == ["global/0000000001.safetensors", "global/notes.txt"]


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
        lambda whole: whole[:20],
        lambda whole: b"",
        lambda whole: b"\xff" * len(whole),
        lambda whole: whole.replace(b'"owner"', b'"other"').replace(b'"record"', b'"Record"'),
        lambda whole: whole.replace(b"float32", b"float99"),
    ],
    ids=["a byte short", "in the header", "empty", "no header", "no record", "unknown dtype"],
)
async def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = store_in(tmp_path)
    await store.open()
    await store.insert(GLOBAL, Model.from_arrays([np.ones(3, np.float32)]))
    path = tmp_path / "global" / "0000000000.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"global/0000000000\.safetensors: the file is damaged: "):
        await store.latest(GLOBAL)
    await store.close()


async def test_a_disk_that_fails_is_named_and_leaves_what_was(tmp_path: Path) -> None:
    async with nothing_left_behind():
        store = store_in(tmp_path / "models")
        await store.open()
        await store.insert(GLOBAL, Model.from_arrays([], version=1))
        (tmp_path / "models" / ".unfinished").rename(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match=r"models: .*No such file") as caught:
            await store.insert(GLOBAL, Model.from_arrays([], version=2))
        assert caught.value.where == str(tmp_path / "models")
        kept = await store.latest(GLOBAL)
        assert kept is not None
        assert kept.model.version == 1
        await store.close()


async def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = store_in(tmp_path / "file" / "models")
    with pytest.raises(StoreError, match=r"file/models: .*Not a directory"):
        await store.open()
    await store.close()
