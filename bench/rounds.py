"""How long a round takes when there is nothing to compute: a model of one parameter, ten learners in this process.

Times are of this machine; the ratios between the rows are what travels. The run fails unless every learner counted in
every round.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from tables import Columns, Run

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals

Weights = Sequence[NDArray[Any]]
LEARNERS = 10
TIMEOUT_S = 120
COLUMNS: Columns = {
    "connection": ("connection", ""),
    "loop": ("event loop", ""),
    "evaluation": ("evaluation", ""),
    "median_ms": ("round, median (ms)", ".1f"),
    "worst_ms": ("round, worst (ms)", ".1f"),
}


class AddsOne(Learner):
    def get_weights(self) -> Weights:
        return [np.zeros(1, np.float32)]

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        return [parameters[0] + 1], {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"value": float(parameters[0][0])}


async def measure(rounds: int, *, over_grpc: bool, evaluate: bool) -> list[float]:
    """Run a federation; milliseconds of each round but the first, in which connections and threads are made."""
    config = ControllerConfig(scaling_factor="NumParticipants", evaluate_every=int(evaluate))
    controller = Controller(ServerParams() if over_grpc else None, config)
    signals = TerminationSignals(federation_rounds=rounds)
    learners = [AddsOne() for _ in range(LEARNERS)]
    async with asyncio.timeout(TIMEOUT_S):
        result = await DriverSession(controller, learners, signals).run()
    assert len(result.rounds) == rounds
    assert all(len(record.participants) == LEARNERS for record in result.rounds)
    return [record.duration_ms for record in result.rounds[1:]]


def main() -> None:
    run = Run(__doc__)
    table = run.table("rounds", COLUMNS)
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    for over_grpc in (False, True):
        for name, factory in loops.items():
            for evaluate in (False, True):
                with asyncio.Runner(loop_factory=factory) as runner:
                    times = runner.run(measure(5 if run.is_quick else 50, over_grpc=over_grpc, evaluate=evaluate))
                table.add(
                    connection="gRPC on loopback" if over_grpc else "in memory",
                    loop=name,
                    evaluation="on" if evaluate else "off",
                    median_ms=statistics.median(times),
                    worst_ms=max(times),
                )
    run.end()


if __name__ == "__main__":
    main()
