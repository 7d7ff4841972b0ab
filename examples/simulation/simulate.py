"""A thousand sites learn what they have in common, fifty a round, in two worker processes."""

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, Simulation, TerminationSignals

Weights = list[NDArray[Any]]
TRUTH = np.linspace(-1.0, 1.0, 100).astype(np.float32)


class Site(Learner):
    """A linear model of 20 to 100 examples that are the site's own."""

    def __init__(self, number: int) -> None:
        random = np.random.default_rng(number)  # where a real one loads its data
        self.x = random.standard_normal((random.integers(20, 101), len(TRUTH)), np.float32)
        self.y = self.x @ TRUTH + random.standard_normal(len(self.x), np.float32)
        super().__init__(num_training_examples=len(self.x))

    def get_weights(self) -> Weights:
        return [np.zeros_like(TRUTH)]

    def set_weights(self, parameters: Weights) -> None: ...

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        (weights,) = parameters
        for _ in range(5):
            weights -= 0.2 * self.x.T @ (self.x @ weights - self.y) / len(self.x)
        return [weights], {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"mse": float(np.mean((self.x @ parameters[0] - self.y) ** 2)), "num_examples": len(self.x)}


async def main() -> None:
    simulation = Simulation(Site, learners=1_000, workers=2)
    controller = Controller(controller_config=ControllerConfig(participation_ratio=0.05))
    result = await DriverSession(controller, simulation, TerminationSignals(federation_rounds=20)).run()
    for record in result.rounds:
        print(f"round {record.number}: {len(record.participants)} sites, mse {record.evaluation_metrics['mse']:.3f}")


if __name__ == "__main__":  # the workers import this file
    asyncio.run(main())
