"""Plain files are read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from federations import Adds, nothing_left_behind, session_of

from metisfl_async import FederationResult, LearnerRecord, RoundRecord
from metisfl_async.core.federation.events import event_from_dict
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.contributors import Contributor, entries_of
from metisfl_async.events import event_to_dict
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.tracking import (
    CSV,
    JSONLines,
)
from metisfl_async.tracking.names import of_learners, of_round


async def test_every_event_is_a_line(tmp_path: Path) -> None:
    session = session_of([Adds(1), Adds(2)])
    async with nothing_left_behind():
        await session.run(watch=[JSONLines(tmp_path / "run.jsonl")])
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    events = [event async for event in session.events()]
    assert lines == [event_to_dict(event) for event in events]
    assert [event_from_dict(line) for line in lines] == events


class Diverges(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        return parameters, {"loss": np.nan}


async def test_lines_are_json_for_everybody(tmp_path: Path) -> None:
    await session_of([Diverges(1)], rounds=1).run(watch=[JSONLines(tmp_path / "run.jsonl")])
    assert "NaN" not in (tmp_path / "run.jsonl").read_text()
    assert '"metrics": {"loss": null}' in (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize("tracker", [JSONLines, CSV])
async def test_a_directory_that_is_not_there_is_made(
    tmp_path: Path, tracker: type[JSONLines | CSV], caplog: pytest.LogCaptureFixture
) -> None:
    await session_of([Adds(1)], rounds=1).run(watch=[tracker(tmp_path / "runs" / "today" / "run")])
    assert (tmp_path / "runs" / "today" / "run").stat().st_size > 0
    assert not caplog.records


async def test_every_number_is_a_row(tmp_path: Path) -> None:
    result = await session_of([Adds(1), Adds(2)]).run(watch=[CSV(tmp_path / "run.csv")])
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = [(int(row["step"]), row["learner"], row["name"], float(row["value"])) for row in csv.DictReader(file)]
    found = {(step, f"learner/{learner}/{name}" if learner else name): value for step, learner, name, value in rows}
    assert len(found) == len(rows)
    assert found == expected(result)
    assert (2, "learner-1", "train/loss", 0.5) in rows


def expected(result: FederationResult) -> dict[tuple[int, str], float]:
    return {
        (record.number, name): value
        for record in result.rounds
        for name, value in (of_round(record) | of_learners(record)).items()
    }


async def test_names_are_groups() -> None:
    record = (await session_of([Adds(1), Adds(2)], rounds=1).run()).rounds[0]
    assert {name.split("/")[0] for name in of_round(record)} == {"train", "evaluation", "system"}
    assert of_round(record)["system/updates"] == of_round(record)["system/learners"] == 2
    assert of_learners(record)["learner/learner-0/evaluation/accuracy"] == pytest.approx(5 / 3)


def test_a_hospital_behind_a_relay_has_names_of_its_own() -> None:
    below = {"site-1": Contributor(1.0, 1, {"auc": 0.25}), "inner/site-2": Contributor(1.0, 1, {"auc": 0.75})}
    north = LearnerRecord(evaluation_metrics={"auc": 0.5}, evaluation_metadata=entries_of(below), bytes_sent=7)
    named = of_learners(RoundRecord(1, 0, learners={"north": north}))
    assert {name: value for name, value in named.items() if "/evaluation/" in name} == {
        "learner/north/evaluation/auc": 0.5,
        "learner/north/site-1/evaluation/auc": 0.25,
        "learner/north/inner/site-2/evaluation/auc": 0.75,
    }
    assert named["learner/north/system/bytes_sent"] == 7
