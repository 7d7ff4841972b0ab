"""How many batches a task may train, and what to report of them: the learner's side of semi-synchronous training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.learner.adapters.options import whole_number

__all__ = ["BatchBudget"]

Batch = TypeVar("Batch")


def _never() -> bool:
    return False


class BatchBudget:
    """Counts and times the batches of one call of `Learner.train`, and says when it has had enough.

    ``config["num_local_updates"]`` batches are to be trained, across the ends of epochs if need be; without it,
    ``config["epochs"]`` (or 1) times all batches of an epoch. Loop over `batches` or `shuffled_rows`, or call `start`,
    `count` and `is_spent` yourself. For `keras.Model.fit` there is `keras_budget_callback`.

    Parameters
    ----------
    config : mapping
        What `train` was given. Read are "batch_size" (default 32), "epochs" (1) and "num_local_updates".
    num_examples : int
        How many examples the learner trains on.
    batches_per_epoch : int, optional
        For data that comes in batches already; then "batch_size" is refused. Otherwise it is
        ``ceil(num_examples / batch_size)``.
    is_cancelled : callable, optional
        Looked at before every batch: ``lambda: self.is_cancelled`` in a learner.
    clock : callable, optional
        Gives seconds.

    Raises
    ------
    ConfigError
        If a number is not an integer >= 1.
    """

    def __init__(
        self,
        config: Mapping[str, Json],
        *,
        num_examples: int,
        batches_per_epoch: int | None = None,
        is_cancelled: Callable[[], bool] = _never,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        for name, value in (("num_examples", num_examples), ("batches_per_epoch", batches_per_epoch)):
            if value is not None:
                integer(name, value, 1)
        self.batch_size: int | None = None  #: None for data that comes in batches
        if batches_per_epoch is None:
            self.batch_size = whole_number(config, "batch_size", 32)
            batches_per_epoch = ceil(num_examples / self.batch_size)
        elif "batch_size" in config:
            raise ConfigError("config['batch_size']", config["batch_size"], "no such key: the data comes in batches")
        self.num_examples = num_examples
        self.batches_per_epoch = batches_per_epoch
        self.num_batches = whole_number(config, "epochs", 1) * batches_per_epoch  #: how many are to be trained
        if "num_local_updates" in config:
            self.num_batches = whole_number(config, "num_local_updates", 1)
        self.num_completed = 0  #: how many were
        self._is_cancelled, self._clock = is_cancelled, clock
        self._began = self._warm = self._ended = 0.0  # when the first batch began, when it ended, when the last did
        self._num_warming = 0  # batches of the first count

    @property
    def num_epochs(self) -> int:
        """How many epochs it takes, the last one perhaps not to its end."""
        return ceil(self.num_batches / self.batches_per_epoch)

    @property
    def is_spent(self) -> bool:
        return self.num_completed >= self.num_batches or self._is_cancelled()

    def start(self) -> None:
        """Start the clock, once the first batch is about to begin."""
        self._began = self._clock()

    def count(self, num_batches: int = 1) -> None:
        """Say that so many more batches have been trained."""
        self._ended = self._clock()
        if self.num_completed == 0:
            self._warm, self._num_warming = self._ended, num_batches
        self.num_completed += num_batches

    def batches(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """Go through batches, from the beginning again when they end, until the budget is spent.

        A batch counts once the next one is asked for.

        Raises
        ------
        ConfigError
            If `source` has no batch, or cannot be gone through a second time when that is needed.
        """
        return self._limited(lambda: source)

    def shuffled_rows(self, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Draw batches: arrays of at most `batch_size` row numbers, each epoch in a new order."""
        size = self.batch_size
        if size is None:
            raise ConfigError("batches_per_epoch", self.batches_per_epoch, "None, for data that is not in batches yet")

        def epoch() -> Iterator[NDArray[np.int64]]:
            order = rng.permutation(self.num_examples)
            return (order[start : start + size] for start in range(0, len(order), size))

        return self._limited(epoch)

    def metadata(self) -> dict[str, Json]:
        """Give what `train` returns as its metadata, for scaling factors and the semi-synchronous scheduler.

        Returns
        -------
        dict
            "num_training_examples", "num_completed_batches", and the mean times "processing_ms_per_batch" and
            "processing_ms_per_epoch" (of as many batches as an epoch has) in milliseconds, the time between batches
            included. The first batch, in which frameworks compile, is left out of the mean if there are others.
        """
        seconds, num = self._ended - self._warm, self.num_completed - self._num_warming
        if num == 0:
            seconds, num = self._ended - self._began, self.num_completed
        ms_per_batch = 1e3 * seconds / num if num else 0.0
        return {
            "num_training_examples": self.num_examples,
            "num_completed_batches": self.num_completed,
            "processing_ms_per_batch": ms_per_batch,
            "processing_ms_per_epoch": ms_per_batch * self.batches_per_epoch,
        }

    def _limited(self, epoch: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
        self.start()
        while not self.is_spent:
            before = self.num_completed
            for batch in epoch():
                yield batch
                self.count()
                if self.is_spent:
                    return
            if self.num_completed == before:
                raise ConfigError("batches", "at their end", "at least one, and an iterable that can begin again")
