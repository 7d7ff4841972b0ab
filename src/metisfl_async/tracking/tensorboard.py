"""Curves in TensorBoard, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver.result import FederationResult
from metisfl_async.tracking.names import ended_at, of_learners, of_round
from metisfl_async.tracking.tracker import RoundTracker, package

__all__ = ["TensorBoard"]


class TensorBoard(RoundTracker):
    """Writes event files that ``tensorboard --logdir`` shows. Needs ``pip install tensorboardX``.

    Parameters
    ----------
    directory : str or Path
        Where; one directory a run, so that runs can be compared.
    learners : bool
        Write each learner's own numbers, too.
    """

    def __init__(self, directory: str | Path, *, learners: bool = True) -> None:
        self._package = package("tensorboardX", "TensorBoard", "tensorboardX")
        self._directory, self._learners = Path(directory), learners

    def open(self) -> None:
        self._writer = self._package.SummaryWriter(str(self._directory))

    def note(self, record: RoundRecord) -> None:
        values = of_round(record) | (of_learners(record) if self._learners else {})
        for name, value in values.items():
            self._writer.add_scalar(name, value, record.number, walltime=ended_at(record))
        self._writer.flush()

    def close(self, result: FederationResult | None) -> None:
        self._writer.close()
