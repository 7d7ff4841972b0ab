"""A hundred parties train on the digits of scikit-learn; with more noise, the models say less about any one of them."""

from __future__ import annotations

import argparse
import asyncio

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals
from metisfl_async.strategies import PrivateAverage

Floats = NDArray[np.float64]
NOBODYS = 297  # images to test the models with, which no party has


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
    """Train, and give epsilon and the accuracy on images that nobody trained on."""
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    nobodys = Party(images[-NOBODYS:], digits[-NOBODYS:])
    images, digits = images[:-NOBODYS], digits[:-NOBODYS]
    learners = [Party(images[k::parties], digits[k::parties]) for k in range(parties)]
    rule = PrivateAverage(clip=0.5, noise_multiplier=noise_multiplier, denominator=parties, delta=1e-3)
    config = ControllerConfig(aggregation_rule=rule, scaling_factor="NumParticipants")
    controller = Controller(ServerParams(), config)
    signals = TerminationSignals(federation_rounds=rounds)
    session = DriverSession(controller, learners, signals, evaluate=lambda model, _: nobodys.evaluate(model, {}))
    last = (await session.run()).rounds[-1]
    return last.privacy["epsilon"], last.central["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parties", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    for noise in (0.5, 1.0, 2.0, 4.0, 8.0):
        spent, accuracy = asyncio.run(run(noise, arguments.parties, arguments.rounds))
        print(f"noise_multiplier {noise}: epsilon {spent:.2f}, accuracy {accuracy:.3f}")
