"""The event files are read back, record by record."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from federations import Adds, nothing_left_behind, session_of
from tensorboardX.proto.event_pb2 import Event as Written

from metisfl_async import (
    FederationResult,
)
from metisfl_async.tracking import (
    TensorBoard,
)
from metisfl_async.tracking.names import of_learners, of_round


def expected(result: FederationResult) -> dict[tuple[int, str], float]:
    return {
        (record.number, name): value
        for record in result.rounds
        for name, value in (of_round(record) | of_learners(record)).items()
    }


@pytest.mark.parametrize("learners", [True, False])
async def test_tensorboard_has_the_curves(tmp_path: Path, learners: bool) -> None:
    before = time.time()
    async with nothing_left_behind():
        result = await session_of([Adds(1), Adds(2)]).run(watch=[TensorBoard(tmp_path / "logs", learners=learners)])
    found, times = read_event_files(tmp_path / "logs")
    of_means = {key: value for key, value in expected(result).items() if learners or not key[1].startswith("learner/")}
    assert found.keys() == of_means.keys()
    assert all(value == pytest.approx(of_means[key], rel=1e-6) for key, value in found.items())
    assert all(before <= at <= time.time() for at in times)


def read_event_files(directory: Path) -> tuple[dict[tuple[int, str], float], list[float]]:
    found, times = {}, []
    for path in directory.iterdir():
        data = path.read_bytes()
        while data:  # a TFRecord: length, its checksum, the record, its checksum
            length = int.from_bytes(data[:8], "little")
            written, data = Written.FromString(data[12 : 12 + length]), data[16 + length :]
            for value in written.summary.value:
                found[written.step, value.tag] = value.simple_value
                times.append(written.wall_time)
    return found, times
