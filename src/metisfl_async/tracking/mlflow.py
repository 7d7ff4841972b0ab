"""Runs in MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

from metisfl_async.core.federation.events import Event, FederationFinished, FederationStarted
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.metrics import Metrics
from metisfl_async.driver.result import FederationResult
from metisfl_async.tracking.names import by_learner, ended_at, of_round
from metisfl_async.tracking.tracker import RoundTracker, package, save_all

__all__ = ["MLflow"]

MOST = 1000  #: metrics in one request


class MLflow(RoundTracker):
    """Makes a run for the federation, and one below it for each learner. Needs ``pip install mlflow-skinny``.

    At the end, ``results.json`` and ``model.safetensors`` are artifacts of the run. A run of your own that is active
    stays what it is.

    Parameters
    ----------
    tracking_uri : str, optional
        Of the server or store; without it, MLflow's own choice (``MLFLOW_TRACKING_URI``).
    experiment : str
        Its name; it is made if there is none.
    run_name : str, optional
        Of the federation's run.
    learners : bool
        Make a run for each learner, too.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment: str = "metisfl_async",
        run_name: str | None = None,
        learners: bool = True,
    ) -> None:
        self._package = package("mlflow", "MLflow", "mlflow-skinny")
        self._uri, self._experiment, self._name, self._learners = tracking_uri, experiment, run_name, learners

    def open(self) -> None:
        self._client = self._package.MlflowClient(self._uri)
        found = self._client.get_experiment_by_name(self._experiment)
        self._in = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._run, self._of = self._new_run(self._name, {}), dict[str, str]()
        self._status = "KILLED"

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case FederationStarted(federation_id):
                    self._client.set_tag(self._run, "metisfl.federation_id", federation_id)
                case FederationFinished(reason, is_failure):
                    self._client.set_tag(self._run, "metisfl.reason", reason)
                    self._status = "FAILED" if is_failure else "FINISHED"
        super().take(events)

    def note(self, record: RoundRecord) -> None:
        self._log(self._run, of_round(record), record)
        for learner, values in by_learner(record).items() if self._learners else ():
            if learner not in self._of:
                self._of[learner] = self._new_run(learner, {"mlflow.parentRunId": self._run})
            self._log(self._of[learner], values, record)

    def close(self, result: FederationResult | None) -> None:
        if result is not None:
            with TemporaryDirectory() as directory:
                save_all(result, directory)
                self._client.log_artifacts(self._run, directory)
        for run in (*self._of.values(), self._run):
            self._client.set_terminated(run, self._status)

    def _new_run(self, name: str | None, tags: dict[str, str]) -> str:
        run: Any = self._client.create_run(self._in, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _log(self, run: str, values: Metrics, record: RoundRecord) -> None:
        of_store, at_ms = self._package.entities.Metric, int(ended_at(record) * 1e3)
        metrics = [of_store(_allowed(name), value, at_ms, record.number) for name, value in values.items()]
        for start in range(0, len(metrics), MOST):
            self._client.log_batch(run, metrics[start : start + MOST])


def _allowed(name: str) -> str:
    """Replace what MLflow takes in no name."""
    return re.sub(r"[^\w\-. :/]", "_", name)
