"""How late the event loop is while three Keras learners train beside the controller, in threads and in processes.

A ticker sleeps 10 ms at a time and notes how much longer it took: the lag's median, 99th percentile and worst, of
asyncio's loop. Beside them, the longest silence of a learner (its heartbeats come every second), and how many leases
ended. The run fails if a heartbeat was missed, a lease ended, or an update did not count.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

import numpy as np
from lag import tick
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from tables import Columns, Row, Run

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals
from metisfl_async.data import iid_partition
from metisfl_async.events import LearnerLeft

Weights = Sequence[NDArray[Any]]
TIMEOUT_S = 300
MISSED_S = 2.0  #: a silence so long is a heartbeat that did not come
COLUMNS: Columns = {
    "worker": ("learners in", ""),
    "median_ms": ("lag p50 (ms)", ".1f"),
    "p99_ms": ("p99 (ms)", ".1f"),
    "worst_ms": ("worst (ms)", ".1f"),
    "silence_s": ("longest silence (s)", ".2f"),
    "leases": ("leases ended", "d"),
    "accuracy": ("accuracy", ".3f"),
}


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


async def measure(worker: Literal["thread", "process"], rounds: int, epochs: int) -> Row:
    x, y = load_digits(return_X_y=True)
    x = np.tile(x.astype(np.float32) / 16, (20, 1))
    x_chunks, y_chunks = iid_partition(x, np.tile(y, 20), num_partitions=3)
    learners = [KerasLearner(*part, epochs) for part in zip(x_chunks, y_chunks, strict=True)]
    lags_ms: list[float] = []
    config = ControllerConfig(heartbeat_secs=1.0, lease_secs=5.0)
    async with asyncio.timeout(TIMEOUT_S), Controller(ServerParams(), config) as controller:
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
    assert left == 0, f"{left} leases ended"
    assert silence_ms < MISSED_S * 1e3, f"a learner was silent for {silence_ms:.0f} ms"
    assert len(result.rounds) == rounds
    assert all(len(record.participants) == len(learners) for record in result.rounds)
    median, high = np.percentile(lags_ms, [50, 99])
    return {
        "worker": worker,
        "median_ms": float(median),
        "p99_ms": float(high),
        "worst_ms": max(lags_ms),
        "silence_s": silence_ms / 1e3,
        "leases": left,
        "accuracy": result.rounds[-1].evaluation_metrics["accuracy"],
    }


def main() -> None:
    run = Run(__doc__)
    import_module("keras")  # before serving: importing it in a thread would hold up the loop for a second

    table = run.table("loop_lag", COLUMNS)
    workers: tuple[Literal["thread", "process"], ...] = ("thread",) if run.is_quick else ("thread", "process")
    for worker in workers:
        table.add(**asyncio.run(measure(worker, *((1, 1) if run.is_quick else (5, 3)))))
    run.end()


if __name__ == "__main__":
    main()
