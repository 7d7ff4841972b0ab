"""What fewer bytes cost: bytes, accuracy, and rounds to reach it, for each codec of updates and downloads.

A small network on Fashion-MNIST, ten learners with skewed classes (Dirichlet, alpha 0.5), each an epoch a round, over
gRPC on loopback. All starts from the same weights; what differs is how models travel. It matters who has which images,
so all of it is done for several draws of the learners' data. Prints a table; with --json docs/smaller.json,
`report.py --pages` puts it into docs/guide.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for matrices so small, a second thread mostly waits for its core

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from data import load, scaled
from skewed import BATCH, Images, Trains, accuracy, first_model
from tables import Columns, Run

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, Model, ServerParams, TerminationSignals
from metisfl_async.data import dirichlet_partition

LEARNERS = 10
CASES = (
    ("raw", "raw"),
    ("raw", "bf16"),
    ("bf16", "bf16"),
    ("int8", "bf16"),
    ("int8", "int8"),
    ("topk:0.1", "int8"),
    ("topk:0.01", "int8"),
    ("topk:0.001", "int8"),
)


class Found(NamedTuple):
    """What came of one run."""

    sent_kb: float  #: for each learner and round
    received_kb: float
    accuracies: list[float]  #: of the global model after each round


class Site(Learner):
    """Trains an epoch of its own images."""

    def __init__(self, images: Images, seed: int) -> None:
        super().__init__(num_training_examples=len(images.y))
        self.trains, self.batches = Trains(images, seed), -(-len(images.y) // BATCH)

    def get_weights(self) -> list[np.ndarray]:
        return first_model(self.trains.images.x.shape[1]).arrays()

    def set_weights(self, parameters: list[np.ndarray]) -> None:
        """Take over nothing: parameters come with every task."""

    def train(self, parameters: list[np.ndarray], config: object) -> tuple[list[np.ndarray], dict[str, float]]:
        return self.trains(Model.from_arrays(parameters), self.batches).arrays(), {}

    def evaluate(self, parameters: list[np.ndarray], config: object) -> dict[str, float]:
        return {}


async def run_federation(codecs: tuple[str, str], parts: Sequence[Images], test: Images, rounds: int) -> Found:
    config = ControllerConfig(update_codec=codecs[0], download_codec=codecs[1], evaluate_every=0)
    session = DriverSession(
        Controller(ServerParams(), config),
        [Site(part, number) for number, part in enumerate(parts)],
        TerminationSignals(federation_rounds=rounds),
        initial_weights=first_model(test.x.shape[1]).arrays(),
        evaluate=lambda parameters, _: {"accuracy": accuracy(Model.from_arrays(parameters), test)},
    )
    result = await session.run()
    last, learners = result.rounds[-1], len(parts)
    return Found(
        last.bytes_sent / learners / 1e3,
        last.bytes_received / learners / 1e3,
        [record.central["accuracy"] for record in result.rounds],
    )


def main() -> None:
    run = Run(__doc__, images=8_000, draws=3, rounds=60, goal=0.8)
    options = run.options
    if run.is_quick:
        options |= {"images": 1_000, "draws": 1, "rounds": 3, "goal": 0.3}
    dataset = load("fashion-mnist")
    x, y = scaled(dataset.x_train).reshape(len(dataset.x_train), -1), dataset.y_train.astype(np.int64)
    test = Images(scaled(dataset.x_test).reshape(len(dataset.x_test), -1), dataset.y_test.astype(np.int64))
    draws: list[list[Images]] = []
    for seed in range(1, options["draws"] + 1):
        taken = np.random.default_rng(seed).permutation(len(x))[: options["images"]]
        chunks = dirichlet_partition(x[taken], y[taken], num_partitions=LEARNERS, alpha=0.5, seed=seed)
        draws.append([Images(*part) for part in zip(*chunks, strict=True)])
    columns: Columns = {
        "update": ("`update_codec`", ""),
        "download": ("`download_codec`", ""),
        "up_kb": ("up (kB)", ".1f"),
        "down_kb": ("down (kB)", ".1f"),
        "accuracy": (f"accuracy after {options['rounds']} rounds", ".3f"),
        "lowest": ("lowest", ".3f"),
        "highest": ("highest", ".3f"),
        "rounds": (f"rounds to {options['goal']}", ""),
    }
    print(f"\n{dataset.name}: {options['images']} images, {options['draws']} draws; bytes of a learner in a round")
    table = run.table("smaller", columns)
    for codecs in CASES:
        found = [asyncio.run(run_federation(codecs, parts, test, options["rounds"])) for parts in draws]
        last = [each.accuracies[-1] for each in found]
        table.add(
            update=codecs[0],
            download=codecs[1],
            up_kb=found[0].received_kb,
            down_kb=found[0].sent_kb,
            accuracy=float(np.mean(last)),
            lowest=min(last),
            highest=max(last),
            rounds=" ".join(str(_first(each.accuracies, options["goal"])) for each in found),
        )
    run.end()


def _first(accuracies: Sequence[float], goal: float) -> int | str:
    """Say after how many rounds the goal was reached."""
    return next((number for number, value in enumerate(accuracies, 1) if value >= goal), "-")


if __name__ == "__main__":
    main()
