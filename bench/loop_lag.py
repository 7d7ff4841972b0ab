"""How late the event loop is while three Keras learners train beside the controller, in threads and in processes.

A ticker sleeps 10 ms at a time and notes how much longer it took. Prints a Markdown table: the lag's median, 99th
percentile and worst, the longest silence of a learner (its heartbeats come every second), and how many leases ended.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import asyncio
import platform
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    LearnerLeft,
    ServerParams,
    TerminationSignals,
    iid_partition,
)

TICK_S = 0.010
Weights = Sequence[NDArray[Any]]


class KerasLearner(Learner):
    """Trains a small dense network; its model is made where it is used, so that the learner can be pickled."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any], epochs: int) -> None:
        super().__init__(num_training_examples=len(x))
        self.x, self.y, self.epochs = x, y, epochs
        self.made: Any = None

    @property
    def model(self) -> Any:
        if self.made is None:
            import keras

            layers = keras.layers
            self.made = keras.Sequential(
                [keras.Input((64,)), layers.Dense(256, "relu"), layers.Dense(128, "relu"), layers.Dense(10, "softmax")]
            )
            self.made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return self.made

    def get_weights(self) -> Weights:
        return list(self.model.get_weights())

    def set_weights(self, parameters: Weights) -> None:
        self.model.set_weights(parameters)

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        self.model.set_weights(parameters)
        history = self.model.fit(self.x, self.y, batch_size=64, epochs=self.epochs, verbose=0)
        return self.model.get_weights(), {"loss": history.history["loss"][-1]}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        self.model.set_weights(parameters)
        return dict(self.model.evaluate(self.x, self.y, verbose=0, return_dict=True))


async def tick(lags_ms: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags_ms.append((time.perf_counter() - start - TICK_S) * 1e3)


async def measure(worker: Literal["thread", "process"], rounds: int, epochs: int) -> str:
    x, y = load_digits(return_X_y=True)
    x = np.tile(x.astype(np.float32) / 16, (20, 1))
    parts = iid_partition(x, np.tile(y, 20), num_partitions=3)
    learners = [KerasLearner(*part, epochs) for part in parts]
    lags_ms: list[float] = []
    config = ControllerConfig(heartbeat_secs=1.0, lease_secs=5.0)
    async with Controller(ServerParams(), config) as controller:
        session = DriverSession(controller, learners, TerminationSignals(federation_rounds=rounds), worker=worker)
        running = asyncio.create_task(session.run())
        ticking, silence_ms, left = None, 0.0, 0
        async for event in session.events():
            if ticking is None:  # the learners are there: their framework is imported, training begins
                ticking = asyncio.create_task(tick(lags_ms))
            if isinstance(event, LearnerLeft) and "silent" in event.reason:
                left += 1
            silence_ms = max([silence_ms, *controller.longest_silences_ms().values()])
        result = await running
        assert ticking is not None
        ticking.cancel()
    median, high = np.percentile(lags_ms, [50, 99])
    accuracy = result.rounds[-1].evaluation_metrics["accuracy"]
    return (
        f"| {worker} | {median:.1f} | {high:.1f} | {max(lags_ms):.1f} | {silence_ms / 1e3:.2f} | {left} "
        f"| {accuracy:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    import keras  # before serving: importing it in a thread would hold up the loop for a second

    print(
        f"\n3 Keras {keras.__version__} learners, {options.rounds} rounds of {options.epochs} epochs on "
        f"{os.cpu_count()} cores; {platform.machine()}, Python {platform.python_version()}\n"
    )
    print("| learners in | lag p50 (ms) | p99 (ms) | worst (ms) | longest silence (s) | leases ended | accuracy |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for worker in ("thread", "process"):
        print(asyncio.run(measure(worker, options.rounds, options.epochs)))


if __name__ == "__main__":
    main()
