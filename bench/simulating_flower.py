"""A simulation by Flower, on Ray: the learners of `small_task.py`. Prints rounds a second and the accuracy, as JSON.

Runs in Flower's virtual environment: bench/.venv-flower/bin/python bench/simulating_flower.py DIRECTORY LEARNERS COHORT
ROUNDS. A client has one CPU, as by default, so as many are at work as there are cores. Nobody evaluates but we, at the
end. The first round, in which Ray starts, is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from flwr.client import Client, ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
from small_task import EXAMPLES, Weights, accuracy, first_weights, part, train


class Trains(NumPyClient):  # type: ignore[misc]
    def __init__(self, directory: str, number: int) -> None:
        self.part = part(directory, number)

    def fit(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, int, dict[str, Any]]:
        return train(parameters, *self.part), EXAMPLES, {}


class Timed(FedAvg):  # type: ignore[misc]
    """Notes when each round has been added up, and the latest model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ends: list[float] = []

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        assert not failures
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        self.ends.append(time.perf_counter())
        self.latest = parameters_to_ndarrays(parameters)
        return parameters, metrics


def main(directory: str, learners: int, cohort: int, rounds: int) -> None:
    strategy = Timed(
        fraction_fit=cohort / learners,
        fraction_evaluate=0.0,
        min_available_clients=learners,
        initial_parameters=ndarrays_to_parameters(first_weights()),
    )

    def client(context: Context) -> Client:
        return Trains(directory, int(context.node_config["partition-id"])).to_client()

    def server(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))

    run_simulation(ServerApp(server_fn=server), ClientApp(client_fn=client), num_supernodes=learners)
    ends = strategy.ends
    found = {"rounds_a_s": (rounds - 1) / (ends[-1] - ends[0]), "accuracy": accuracy(strategy.latest, directory)}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
