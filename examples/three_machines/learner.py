"""On each site: python learner.py CONTROLLER_HOST SITE_NAME

It needs certs/ca.pem, and the site's own pair: certs/SITE_NAME.pem and certs/SITE_NAME.key.
"""

import asyncio
import logging
import sys
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metisfl_async import ClientParams, Learner, run_learner

Weights = list[NDArray[Any]]


class MeanLearner(Learner):
    """Learns the mean of numbers that never leave it."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        super().__init__(num_training_examples=len(numbers))
        self.numbers = numbers

    def get_weights(self) -> Weights:
        return [np.zeros(1)]

    def set_weights(self, parameters: Weights) -> None:
        logging.info("the mean of all sites is about %.3f", parameters[0][0])

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        moved = parameters[0] + 0.5 * (self.numbers.mean() - parameters[0])
        return [moved], self.evaluate([moved], config)

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"loss": float(np.mean((self.numbers - parameters[0]) ** 2))}


logging.basicConfig(level=logging.INFO, format="%(message)s")
host, site = sys.argv[1:]
rng = np.random.default_rng(zlib.crc32(site.encode()))  # each site has other numbers
learner = MeanLearner(rng.normal(rng.uniform(0, 10), 1.0, size=100))
params = ClientParams(host, 50051, "certs/ca.pem", certificate=f"certs/{site}.pem", private_key=f"certs/{site}.key")
asyncio.run(run_learner(learner, params, learner_id=site))
