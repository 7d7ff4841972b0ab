"""A store in SQLite is read back with MLflow's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
from federations import Adds, session_of

from metisfl_async import ControllerConfig, FederationResult, QuorumLost
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.tracking import MLflow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of SQLAlchemy


class Fails(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        raise OSError("disk full")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Say where a store is; its tables take seconds to make, so there is one."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def runs_of(client: Any, experiment: str) -> dict[str, Any]:
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in found}


async def test_there_is_a_run_for_the_federation_and_one_for_each_learner(uri: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(uri)
    client.create_experiment("digits", artifact_location=(tmp_path / "artifacts").as_uri())
    result = await session_of([Adds(1), Adds(2)]).run(watch=[MLflow(uri, experiment="digits", run_name="first")])
    runs = runs_of(client, "digits")
    assert runs.keys() == {"first", "learner-0", "learner-1"}
    whole = runs.pop("first")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {whole.info.run_id}
    assert {run.info.status for run in (whole, *runs.values())} == {"FINISHED"}
    assert whole.data.tags["metisfl.reason"] == result.reason
    history = client.get_metric_history(whole.info.run_id, "evaluation/accuracy")
    expected = [(record.number, record.evaluation_metrics["accuracy"]) for record in result.rounds]
    assert [(point.step, point.value) for point in history] == expected
    assert runs["learner-1"].data.metrics["train/loss"] == 0.5
    saved = FederationResult.load(client.download_artifacts(whole.info.run_id, "", str(tmp_path)))
    assert saved.reason == result.reason
    assert saved.final_model == result.final_model


async def test_a_run_that_failed_says_so_and_learners_need_none(uri: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(uri)
    client.create_experiment("fails", artifact_location=(tmp_path / "artifacts").as_uri())
    session = session_of([Fails(1)], config=ControllerConfig(max_failed_rounds=1))
    with pytest.raises(QuorumLost):
        await session.run(watch=[MLflow(uri, experiment="fails", run_name="second", learners=False)])
    runs = runs_of(client, "fails")
    assert {name: run.info.status for name, run in runs.items()} == {"second": "FAILED"}
