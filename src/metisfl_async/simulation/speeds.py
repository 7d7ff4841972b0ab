"""How long simulated learners take by the federation's clock, and what they then say of their own speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from metisfl_async.core.checks import positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.scheduling import timing_of
from metisfl_async.simulation.errand import Single, Task

__all__ = ["OfEach", "Speeds", "of_each"]

OfEach: TypeAlias = Sequence[float] | Callable[[int], float]  #: a number for each learner


def of_each(name: str, given: OfEach, learners: int) -> tuple[float, ...]:
    """Give the number of each learner, checked."""
    if callable(given):
        values = [given(number) for number in range(learners)]
    else:
        values = list(given)
        if len(values) != learners:
            raise ConfigError(name, f"{len(values)} numbers", f"one for each of the {learners} learners, or a function")
    for number, value in enumerate(values):
        positive(f"{name} of learner {number}", value)
    return tuple(values)


class Speeds:
    """Tells how long a learner trains, as the scheduler's wishes have it.

    Parameters
    ----------
    seconds : sequence of float
        How long each learner trains, unless it is told a number of batches.
    """

    def __init__(self, seconds: Sequence[float]) -> None:
        self._seconds = seconds
        self._per_batch: dict[int, float] = {}  # seconds, of each learner that has said how many batches it trains

    def of(self, task: Task) -> float:
        """Give how many seconds a task takes; first weights and evaluation are there at once."""
        if task.offer.kind is not TaskKind.TRAIN:
            return 0.0
        batches = task.offer.config.get("num_local_updates")
        if isinstance(batches, int) and task.number in self._per_batch:
            return batches * self._per_batch[task.number]
        return self._seconds[task.number]

    def retold(self, single: Single) -> Single:
        """Have a learner that says how fast it was say it by the federation's clock."""
        metadata, task = single.metadata, single.task
        if (measured := timing_of(metadata)) is None:
            return single
        per_epoch = max(round(measured.ms_per_epoch / measured.ms_per_batch), 1) if measured.ms_per_batch else 1
        if task.number not in self._per_batch:
            self._per_batch[task.number] = self._seconds[task.number] / _batches(metadata, per_epoch)
        ms_per_batch = 1e3 * self._per_batch[task.number]
        told = {"processing_ms_per_batch": ms_per_batch, "processing_ms_per_epoch": ms_per_batch * per_epoch}
        return replace(single, metadata={**metadata, **told})


def _batches(metadata: Mapping[str, Json], per_epoch: int) -> int:
    completed = metadata.get("num_completed_batches")
    return completed if isinstance(completed, int) and completed > 0 else per_epoch
