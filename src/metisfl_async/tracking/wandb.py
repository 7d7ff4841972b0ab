"""Runs in Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

from metisfl_async.core.federation.events import Event, FederationFinished
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver.result import FederationResult
from metisfl_async.tracking.names import of_learners, of_round
from metisfl_async.tracking.tracker import RoundTracker, package, save_all

__all__ = ["WandB"]


class WandB(RoundTracker):
    """Makes a run for the federation. Needs ``pip install wandb``.

    At the end, ``results.json`` and ``model.safetensors`` are an artifact of the run. A run of your own that is active
    stays what it is.

    Parameters
    ----------
    learners : bool
        Write each learner's own numbers, too.
    **options
        What ``wandb.init`` takes: `project`, `name`, `mode`, `dir`, and so on.
    """

    def __init__(self, *, learners: bool = True, **options: Any) -> None:
        self._package = package("wandb", "WandB", "wandb")
        self._learners, self._options = learners, options

    def open(self) -> None:
        self._run = self._package.init(**{"reinit": "create_new"} | self._options)
        self._run.define_metric("*", step_metric="step")
        self._exit_code = 1

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, FederationFinished):
                self._exit_code = int(event.is_failure)
        super().take(events)

    def note(self, record: RoundRecord) -> None:
        values = of_round(record) | (of_learners(record) if self._learners else {})
        self._run.log({"step": record.number, **values})

    def close(self, result: FederationResult | None) -> None:
        with TemporaryDirectory() as directory:
            if result is not None:
                save_all(result, directory)
                artifact = self._package.Artifact("federation", type="model")
                artifact.add_dir(directory)
                self._run.log_artifact(artifact)
            self._run.finish(self._exit_code)
