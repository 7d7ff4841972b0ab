"""Federated averaging as a plain loop, beside the same federation in earnest: a yardstick to run as a script.

It trains the example's learners twice from the same weights, once in a loop with NumPy, once with a controller over
gRPC, prints both accuracies, and with --save keeps what the learners returned and what the controller made of it.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "quickstart_tensorflow"))

from controller import controller_config
from data import Dataset, load, options, scaled
from learner import NUM_LEARNERS, ImageLearner
from model import set_weights

from metisfl_async import Controller, DriverSession, ModelStoreConfig, ServerParams, TerminationSignals

Weights = list[NDArray[Any]]


class Recorder(ImageLearner):
    """Remembers what it returned in each round."""

    def __init__(self, number: int, dataset: Dataset) -> None:
        super().__init__(number, dataset)
        self.returned: list[Weights] = []

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float], dict[str, Any]]:
        weights, metrics, metadata = super().train(parameters, config)
        self.returned.append([array.copy() for array in weights])
        return weights, metrics, metadata


def weighted_mean(updates: list[Weights], sizes: list[int]) -> Weights:
    """Average in float64, and round once."""
    return [
        np.average(np.stack(arrays).astype(np.float64), axis=0, weights=sizes).astype(np.float32)
        for arrays in zip(*updates, strict=True)
    ]


def plain_loop(dataset: Dataset, rounds: int, config: dict[str, Any]) -> Weights:
    learners = [ImageLearner(number, dataset) for number in range(NUM_LEARNERS)]
    sizes = [len(learner.train_part[0]) for learner in learners]
    weights = learners[0].get_weights()
    for _ in range(rounds):
        weights = weighted_mean([learner.train(weights, config)[0] for learner in learners], sizes)
    return weights


async def federation(dataset: Dataset, rounds: int, epochs: int) -> tuple[list[Weights], list[Recorder]]:
    """Give the global models, the first weights included, and the learners; one thread trains for all of them."""
    learners = [Recorder(number, dataset) for number in range(NUM_LEARNERS)]
    keep_all = ModelStoreConfig(lineage_length=0)
    with ThreadPoolExecutor(1) as worker:
        async with Controller(ServerParams(), controller_config(epochs), keep_all) as controller:
            session = DriverSession(
                controller,
                learners,
                TerminationSignals(federation_rounds=rounds),
                initial_weights=learners[0].get_weights(),
                worker=worker,
            )
            await session.run()
            return [model.copies() for model in await controller.lineage()], learners


def accuracy(learner: ImageLearner, weights: Weights, dataset: Dataset) -> float:
    set_weights(learner.model, weights)
    return float(learner.model.evaluate(scaled(dataset.x_test), dataset.y_test, verbose=0)[1])


def main() -> None:
    import keras  # after `model`, which makes TensorFlow quiet
    import tensorflow as tf

    parser = options(__doc__)
    parser.add_argument("--save", type=Path, metavar="FILE", help="an .npz file")
    arguments = parser.parse_args()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1990)
    dataset = load(arguments.dataset, arguments.limit)
    config = controller_config(arguments.epochs).train_params
    plain = plain_loop(dataset, arguments.rounds, config)
    models, learners = asyncio.run(federation(dataset, arguments.rounds, arguments.epochs))
    sys.stdout.write(f"plain loop {accuracy(learners[0], plain, dataset):.4f}\n")
    sys.stdout.write(f"federation {accuracy(learners[0], models[-1], dataset):.4f}\n")
    if arguments.save is not None:
        arrays: dict[str, Any] = {f"plain/{i}": array for i, array in enumerate(plain)}
        for round_number, model in enumerate(models):
            arrays |= {f"global/{round_number}/{i}": array for i, array in enumerate(model)}
        for number, learner in enumerate(learners):
            arrays[f"size/{number}"] = np.array(len(learner.train_part[0]))
            for round_number, weights in enumerate(learner.returned, start=1):
                arrays |= {f"returned/{number}/{round_number}/{i}": array for i, array in enumerate(weights)}
        np.savez(arguments.save, **arrays)


if __name__ == "__main__":
    main()
