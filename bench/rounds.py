"""How long a round takes when there is nothing to compute: a model of one parameter, ten learners in this process.

Prints a Markdown table. Times are of this machine; the ratios between the rows are what travels.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals

Weights = Sequence[NDArray[Any]]


class AddsOne(Learner):
    def get_weights(self) -> Weights:
        return [np.zeros(1, np.float32)]

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        return [parameters[0] + 1], {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"value": float(parameters[0][0])}


async def measure(learners: int, rounds: int, *, over_grpc: bool, evaluate: bool) -> list[float]:
    """Run a federation; milliseconds of each round but the first, in which connections and threads are made."""
    config = ControllerConfig(scaling_factor="NumParticipants", evaluate_every=int(evaluate))
    controller = Controller(ServerParams() if over_grpc else None, config)
    signals = TerminationSignals(federation_rounds=rounds)
    result = await DriverSession(controller, [AddsOne() for _ in range(learners)], signals).run()
    return [record.duration_ms for record in result.rounds[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    print(
        f"{options.learners} learners, 1 parameter, {options.rounds} rounds; {platform.machine()}, "
        f"Python {platform.python_version()}\n"
    )
    print("| connection | event loop | evaluation | round, median (ms) | round, worst (ms) |")
    print("| --- | --- | --- | ---: | ---: |")
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "uvloop": uvloop.new_event_loop,
    }
    for over_grpc in (False, True):
        for name, factory in loops.items():
            for evaluate in (False, True):
                with asyncio.Runner(loop_factory=factory) as runner:
                    times = runner.run(
                        measure(options.learners, options.rounds, over_grpc=over_grpc, evaluate=evaluate)
                    )
                connection = "gRPC on loopback" if over_grpc else "in memory"
                print(
                    f"| {connection} | {name} | {'on' if evaluate else 'off'} "
                    f"| {statistics.median(times):.1f} | {max(times):.1f} |"
                )


if __name__ == "__main__":
    main()
