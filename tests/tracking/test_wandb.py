"""The file of an offline run is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import wandb
from federations import Adds, session_of
from wandb.proto import wandb_internal_pb2

from metisfl_async.tracking import (
    WandB,
)

WHOLE, LAST = 1, 4  #: kinds of records


async def test_wandb_has_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = WandB(project="digits", mode="offline", dir=str(tmp_path))
    result = await session_of([Adds(1), Adds(2)]).run(watch=[tracker])
    wandb.teardown()
    records = read(tmp_path)
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["evaluation/accuracy"] for row in rows] == [
        record.evaluation_metrics["accuracy"] for record in result.rounds
    ]
    assert rows[-1]["learner/learner-1/train/loss"] == 0.5
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [0]


def read(directory: Path) -> list[Any]:
    """Read a log of LevelDB's: blocks of 32 KiB, in which a record may be whole, or begin, go on and end."""
    records, part = [], b""
    data = next(directory.glob("wandb/offline-run-*/run-*.wandb")).read_bytes()
    place = 7  # after wandb's own header
    while place < len(data):
        if 2**15 - place % 2**15 < 7:  # the rest of a block that holds no record
            place += 2**15 - place % 2**15
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            records.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return records
