"""Records as tables of pandas and Arrow."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from federations import Adds, session_of

from metisfl_async import ConfigError, FederationResult
from metisfl_async.core.model import Array
from metisfl_async.driver.frames import By
from metisfl_async.learner.learner import Config, TrainResult


class FailsOnce(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        if config["round_number"] == 1:
            raise OSError("disk full")
        return super().train(parameters, config)


@pytest.fixture
async def result() -> FederationResult:
    return await session_of([Adds(1), FailsOnce(2)], rounds=3).run()


def test_a_row_is_a_round(result: FederationResult) -> None:
    frame = result.to_frame()
    assert frame["number"].tolist() == [1, 2, 3]
    assert frame["evaluation/accuracy"].tolist() == [record.evaluation_metrics["accuracy"] for record in result.rounds]
    assert frame["train/loss"].tolist() == [record.train_metrics["loss"] for record in result.rounds]
    assert frame["started_at"].tolist() == [record.started_at for record in result.rounds]


def test_what_is_said_of_the_whole_round_has_columns_too(result: FederationResult) -> None:
    rounds = [
        replace(record, central={"auc": 0.5}, privacy={"epsilon": 1.5, "releases": 2}) for record in result.rounds
    ]
    frame = replace(result, rounds=rounds).to_frame()
    assert frame[["central/auc", "privacy/epsilon", "privacy/releases"]].to_numpy().tolist() == [[0.5, 1.5, 2]] * 3
    assert replace(result, rounds=rounds).to_arrow().column("privacy/releases").to_pylist() == [2.0] * 3


def test_a_row_is_a_learners_part_in_a_round(result: FederationResult) -> None:
    frame = result.to_frame(by="learner").set_index(["number", "learner"])
    assert len(frame) == 6
    assert frame.loc[(1, "learner-1"), "train_state"] == "failed"
    assert frame["train/loss"].isna().sum() == 1
    part = result.rounds[1].learners["learner-1"]
    assert frame.loc[(2, "learner-1"), ["weight", "train_ms", "train/loss"]].tolist() == [2.0, part.train_ms, 0.5]


@pytest.mark.parametrize("by", ["round", "learner"])
def test_arrow_has_the_same_and_parquet_gives_it_back(result: FederationResult, by: By, tmp_path: Path) -> None:
    table = result.to_arrow(by)
    frame = result.to_frame(by)
    assert table.column_names == list(frame.columns)
    pyarrow.parquet.write_table(table, tmp_path / "records.parquet")
    again = pyarrow.parquet.read_table(tmp_path / "records.parquet")
    assert again.equals(table)
    assert again.column("number").to_pylist() == frame["number"].tolist()


def test_a_column_has_its_type_also_where_nothing_was_measured(result: FederationResult) -> None:
    nothing = FederationResult(None, None, [], "nobody came")
    kinds: tuple[By, By] = ("round", "learner")
    for by in kinds:
        schema, empty = result.to_arrow(by).schema, nothing.to_arrow(by).schema
        assert [field for field in schema if "/" not in field.name] == list(empty)
        assert list(nothing.to_frame(by).columns) == empty.names
    assert str(result.to_arrow("learner").schema.field("twin").type) == "string"


def test_what_is_missing_or_wrong_is_named(result: FederationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="by is 'site'; allowed: 'round' or 'learner'"):
        result.to_frame(by="site")  # type: ignore[arg-type]
    for module, method in (("pandas", result.to_frame), ("pyarrow", result.to_arrow)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=f"{module} is None; allowed: a package that is installed, for .*: pip"):
            method()
