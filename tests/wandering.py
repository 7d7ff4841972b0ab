"""Learners that take random steps, and what becomes of the model when their updates travel in fewer bytes."""

from __future__ import annotations

import numpy as np
from coded_values import said

from metisfl_async import Learner
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

__all__ = ["ROUNDS", "SIZE", "Wanders", "expected", "step"]

SIZE, ROUNDS = 5000, 3


def step(learner: int, round_number: Json) -> Array:
    drawn = np.random.default_rng([learner, int(str(round_number))]).normal(size=SIZE)
    return (drawn * 0.1).astype(np.float32)


class Wanders(Learner):
    """Takes a random step in each round; its second tensor counts them."""

    def __init__(self, number: int) -> None:
        super().__init__(num_training_examples=number)
        self.number = number
        self.fetched: list[Array] = []

    def get_weights(self) -> list[Array]:
        return [np.linspace(-3, 3, SIZE, dtype=np.float32), np.array(0, np.int64)]

    def set_weights(self, parameters: list[Array]) -> None:
        self.fetched.append(parameters[0].copy())

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.fetched.append(parameters[0].copy())
        parameters[0] += step(self.number, config["round_number"])
        parameters[1] += 1
        return parameters, {}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {}


def expected(codec: str, download_codec: str = "raw") -> Array:
    """Give the model after `ROUNDS` rounds of `Wanders(1)` and `Wanders(3)`."""
    model = Wanders(1).get_weights()[0]
    rests = {number: np.zeros(SIZE, np.float32) for number in (1, 3)}
    for round_number in range(1, ROUNDS + 1):
        total = np.zeros(SIZE, np.float64)
        fetched = said(download_codec, model)
        for number, rest in rests.items():
            change = fetched + step(number, round_number) - fetched
            if codec not in ("raw", "bf16"):
                change = change + rest
            heard = said(codec, change)
            rest[:] = change - heard
            base = fetched if codec == "raw" else model
            total += number * (base + heard).astype(np.float64)
        model = (total / 4).astype(np.float32)
    return model
