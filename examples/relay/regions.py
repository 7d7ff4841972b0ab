"""Two regions of three hospitals each, a relay for each region, one controller; and the same six without relays.

Everything runs in one process here. Elsewhere, the controller with its session, each relay and each hospital is a
program of its own: `relay` and `hospital` are what the last two run.
"""

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    Relay,
    ServerParams,
    TerminationSignals,
    run_learner,
)

Weights = list[NDArray[Any]]
TRUTH = np.linspace(-1.0, 1.0, 200).astype(np.float32)
REGIONS = {"north": (0, 1, 2), "south": (3, 4, 5)}
SIGNALS = TerminationSignals(federation_rounds=5)


class Hospital(Learner):
    """A linear model of some hundred patients who stay here."""

    def __init__(self, number: int) -> None:
        random = np.random.default_rng(number)  # where a real one loads its data
        self.x = random.standard_normal((500 + 100 * number, len(TRUTH)), np.float32)
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


async def hospital(number: int, region: ClientParams) -> None:
    await run_learner(Hospital(number), region, learner_id=f"hospital-{number}")


async def relay(name: str, headquarters: ClientParams) -> None:
    numbers = REGIONS[name]
    config = ControllerConfig(min_learners=len(numbers))  # of the round below
    async with Relay(config, ServerParams(), parent=headquarters, relay_id=name) as region:
        await asyncio.gather(region.run(), *(hospital(number, region.client_params) for number in numbers))


async def main() -> None:
    config = ControllerConfig(min_learners=len(REGIONS))  # at the top, a region is one learner
    async with Controller(ServerParams(), config) as headquarters:
        session = DriverSession(headquarters, len(REGIONS), SIGNALS)
        result, *_ = await asyncio.gather(session.run(), *(relay(name, headquarters.client_params) for name in REGIONS))
    for record in result.rounds:
        print(f"round {record.number}: {', '.join(record.participants)}, mse {record.evaluation_metrics['mse']:.3f}")

    hospitals = [Hospital(number) for numbers in REGIONS.values() for number in numbers]
    flat = await DriverSession(Controller(controller_config=ControllerConfig(min_learners=6)), hospitals, SIGNALS).run()
    assert result.final_model is not None
    assert flat.final_model is not None
    same = result.final_model[0].tobytes() == flat.final_model[0].tobytes()
    print(f"the same six without relays: {'the same model, bit for bit' if same else 'another model'}")


if __name__ == "__main__":
    asyncio.run(main())
