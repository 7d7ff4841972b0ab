"""Learners that keep books, for the tests of this directory."""

from __future__ import annotations

from federations import Adds

from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

__all__ = ["Counts"]


class Counts(Adds):
    """Notes the first value of each model that it trains."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.trained: list[float] = []

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.trained.append(float(parameters[0][0]))
        return super().train(parameters, config)
