"""A learner that trains nothing: it takes as long as it is told to, fails when it is told to, and keeps books."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

import numpy as np

from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, Learner, TrainResult

__all__ = ["FakeLearner"]


class FakeLearner(Learner):
    """Adds a number to all weights.

    Parameters
    ----------
    weights : sequence of ndarray, optional
        What it has before the federation; without them, one array of three zeros.
    adds : float
        What training adds to each weight.
    takes : float, or callable
        How many seconds `train` takes; or a function from the round's number to that.
    fails : bool, or collection of int, or exception
        Whether `train` raises: always, in these rounds, or always this.
    metrics : mapping of str to float, optional
        What `evaluate` gives; without it, the mean of the weights, as "mean".
    num_training_examples : int
        Its weight in the mean.

    Attributes
    ----------
    trained : list of int
        The rounds whose training was done.
    taken_over : list of list of ndarray
        The weights that `set_weights` was given.
    """

    def __init__(
        self,
        weights: Sequence[Array] | None = None,
        *,
        adds: float = 1.0,
        takes: float | Callable[[int], float] = 0.0,
        fails: bool | Collection[int] | Exception = False,
        metrics: Mapping[str, float] | None = None,
        num_training_examples: int = 1,
    ) -> None:
        super().__init__(num_training_examples=num_training_examples)
        self._weights = [np.zeros(3, np.float32)] if weights is None else list(weights)
        self.adds, self.takes, self.fails, self.metrics = adds, takes, fails, metrics
        self.trained: list[int] = []
        self.taken_over: list[list[Array]] = []

    async def get_weights(self) -> list[Array]:
        return self._weights

    async def set_weights(self, parameters: list[Array]) -> None:
        self.taken_over.append(parameters)

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:
        number = cast("int", config["round_number"])
        await asyncio.sleep(self.takes(number) if callable(self.takes) else self.takes)
        self._fail_in(number)
        self.trained.append(number)
        return [(array + self.adds).astype(array.dtype) for array in parameters], {}

    async def evaluate(self, parameters: list[Array], config: Config) -> Mapping[str, object]:
        if self.metrics is not None:
            return dict(self.metrics)
        return {"mean": float(np.mean([array.mean() for array in parameters]))}

    def _fail_in(self, number: int) -> None:
        if isinstance(self.fails, Exception):
            raise self.fails
        if self.fails is True or (isinstance(self.fails, Collection) and number in self.fails):
            raise RuntimeError(f"a fake learner was told to fail in round {number}")
