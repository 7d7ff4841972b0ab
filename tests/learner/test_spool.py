"""Finished updates on disk: whole or not there, and as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, ModelRef, TaskId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.core.model import Array, Model
from metisfl_async.learner import spool as module
from metisfl_async.learner.outcome import Trained
from metisfl_async.learner.spool import Spool, Spooled
from metisfl_async.store import files
from metisfl_async.store.base import Stored
from metisfl_async.store.record import record_of

OFFER = TaskOffer(TaskId("t" * 32), TaskKind.TRAIN, 3, ModelRef(FederationId("f" * 32), 2), {})


def update() -> Spooled:
    arrays: list[Array] = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64)]
    model = Model.from_arrays(arrays, ["weights", "count"])
    return Spooled(OFFER, Trained(model, {"loss": 0.5}, {"num_training_examples": 4.0}), 2)


async def kept_in(directory: Path) -> list[Spooled]:
    """Read what a learner that is started again would find."""
    spool = Spool(directory)
    try:
        return await spool.open()
    finally:
        spool.close()


def assert_same(kept: Spooled, saved: Spooled) -> None:
    assert kept.offer == saved.offer
    assert kept.model_version == saved.model_version
    assert kept.trained.metrics == saved.trained.metrics
    assert kept.trained.metadata == saved.trained.metadata
    assert kept.trained.model.manifest == saved.trained.model.manifest
    for array, expected in zip(kept.trained.model.arrays(), saved.trained.model.arrays(), strict=True):
        np.testing.assert_array_equal(array, expected)


async def test_what_is_saved_is_there_for_another_process_and_gone_once_it_is_forgotten(tmp_path: Path) -> None:
    saved = update()
    await Spool(tmp_path / "a").save(saved)
    (kept,) = await kept_in(tmp_path / "a")
    assert_same(kept, saved)
    Spool(tmp_path / "a").forget(OFFER.task_id)
    assert await kept_in(tmp_path / "a") == []


async def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def looking(path: Path, owner: str, record: str, arrays: Sequence[Array]) -> None:
        files.write(path, owner, record, arrays)
        seen.append([file.name for file in tmp_path.glob("*.update")])

    monkeypatch.setattr(module, "write", looking)
    await Spool(tmp_path).save(update())
    assert seen == [[]]
    assert len(list(tmp_path.glob("*.update"))) == 1  # noqa: ASYNC240


async def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / f".{OFFER.task_id}.1"
    left.write_bytes(b"half")
    assert await kept_in(tmp_path) == []
    assert not left.exists()


@pytest.mark.parametrize("position", [0, 8, 100, -1])
async def test_a_damaged_update_is_removed_and_named(
    position: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool, good = Spool(tmp_path), update()
    await spool.save(good)
    (file,) = tmp_path.glob("*.update")  # noqa: ASYNC240
    damaged = bytearray(file.read_bytes())
    damaged[position] ^= 1
    file.write_bytes(damaged)
    other = replace(good, offer=replace(OFFER, task_id=TaskId("u" * 32)))
    await spool.save(other)
    (kept,) = await kept_in(tmp_path)
    assert_same(kept, other)
    assert str(file) in caplog.text
    assert not file.exists()


@pytest.mark.parametrize("facts", ["{}", "[]", '{"federation_id": 1}'])
async def test_an_update_that_another_version_has_written_otherwise_is_removed_and_named(
    facts: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, model = tmp_path / "t.update", update().trained.model
    files.write(file, "", record_of(model.manifest, 0, 1.0, facts), model.arrays())
    assert await kept_in(tmp_path) == []
    assert f"or one of another version, was removed from the spool_dir: {file}" in caplog.text
    assert not file.exists()


async def test_an_update_that_cannot_be_read_now_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: Path) -> Stored:
        raise OSError(24, "Too many open files")

    await Spool(tmp_path).save(update())
    with monkeypatch.context() as patch:
        patch.setattr(module, "read", failing)
        assert await kept_in(tmp_path) == []
    assert "an update in the spool_dir cannot be read, and stays there" in caplog.text
    (kept,) = await kept_in(tmp_path)
    assert_same(kept, update())


async def test_without_room_the_learner_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    await Spool(tmp_path).save(update())
    assert "No space left on device" in caplog.text
    assert await kept_in(tmp_path) == []


def test_a_directory_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="spool_dir"):
        Spool(tmp_path / "file" / "spool")
