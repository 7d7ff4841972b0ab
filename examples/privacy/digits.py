"""Ten parties train on the digits of scikit-learn, and nobody can tell much about any one of them from the models."""

from __future__ import annotations

import argparse
import asyncio

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals
from metisfl_async.strategies import PrivateAverage

Floats = NDArray[np.float64]


class Party(Learner):
    """Softmax regression, by gradient descent on its own digits."""

    def __init__(self, images: Floats, digits: NDArray[np.int64]) -> None:
        super().__init__()
        self.images, self.truth = images, np.eye(10)[digits]

    def get_weights(self) -> list[Floats]:
        return [np.zeros((64, 10))]

    def set_weights(self, parameters: list[Floats]) -> None:
        pass  # it trains from what it is given

    def train(self, parameters: list[Floats], config: object) -> tuple[list[Floats], dict[str, float]]:
        matrix = parameters[0].copy()
        for _ in range(5):
            matrix -= 0.5 * self.images.T @ (self._probabilities(matrix) - self.truth) / len(self.images)
        return [matrix], {}

    def evaluate(self, parameters: list[Floats], config: object) -> dict[str, float]:
        guesses = self._probabilities(parameters[0]).argmax(1)
        return {"accuracy": float((guesses == self.truth.argmax(1)).mean())}

    def _probabilities(self, matrix: Floats) -> Floats:
        scores = self.images @ matrix
        powers = np.exp(scores - scores.max(1, keepdims=True))
        shares: Floats = powers / powers.sum(1, keepdims=True)
        return shares


async def run(noise_multiplier: float, parties: int, rounds: int) -> tuple[float, float]:
    """Train, and give epsilon and the accuracy."""
    images, digits = load_digits(return_X_y=True)
    learners = [Party(images[k::parties] / 16, digits[k::parties]) for k in range(parties)]
    rule = PrivateAverage(clip=0.5, noise_multiplier=noise_multiplier, denominator=parties, delta=1e-3)
    config = ControllerConfig(aggregation_rule=rule, scaling_factor="NumParticipants")
    controller = Controller(ServerParams(), config)
    result = await DriverSession(controller, learners, TerminationSignals(federation_rounds=rounds)).run()
    last = result.rounds[-1]
    return last.privacy["epsilon"], last.evaluation_metrics["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parties", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    for noise in (0.5, 1.0, 2.0, 4.0):
        spent, accuracy = asyncio.run(run(noise, arguments.parties, arguments.rounds))
        print(f"noise_multiplier {noise}: epsilon {spent:.2f}, accuracy {accuracy:.3f}")
