"""A learner: it holds one third of the images, and trains and evaluates the model on them when it is asked to.

Start three: `python learner.py -l 0`, `python learner.py -l 1` and `python learner.py -l 2`. With `--listen` each has a
port of its own and is dialled by the controller; then start the driver with `--listen` too.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from data import FIRST_PORT, Dataset, load, options, scaled
from model import build_model, set_weights, stop_when
from numpy.typing import NDArray

from metisfl_async import ClientParams, Learner, MetisError, ServerParams, run_learner
from metisfl_async.data import iid_partition

NUM_LEARNERS = 3
logger = logging.getLogger("learner")


class ImageLearner(Learner):
    """Learner number 0, 1 or 2 on its part of a data set."""

    def __init__(self, number: int, dataset: Dataset) -> None:
        x_chunks, y_chunks = iid_partition(dataset.x_train, dataset.y_train, num_partitions=NUM_LEARNERS, seed=1990)
        x, y = x_chunks[number], y_chunks[number]
        x_chunks, y_chunks = iid_partition(dataset.x_test, dataset.y_test, num_partitions=NUM_LEARNERS, seed=1990)
        x_test, y_test = x_chunks[number], y_chunks[number]
        super().__init__(num_training_examples=len(x))
        self.dataset_name = dataset.name
        self.train_part, self.test_part = (scaled(x), y), (scaled(x_test), y_test)
        self.model = build_model(x.shape[1:], seed=number)

    def get_weights(self) -> list[NDArray[Any]]:
        weights: list[NDArray[Any]] = self.model.get_weights()
        return weights

    def set_weights(self, parameters: list[NDArray[Any]]) -> None:
        set_weights(self.model, parameters)

    def train(
        self, parameters: list[NDArray[Any]], config: dict[str, Any]
    ) -> tuple[list[NDArray[Any]], dict[str, float], dict[str, Any]]:
        set_weights(self.model, parameters)
        history = self.model.fit(
            *self.train_part,
            batch_size=config["batch_size"],
            epochs=config["epochs"],
            callbacks=[stop_when(lambda: self.is_cancelled)],
            verbose=0,
        ).history
        metrics = {name: history[name][-1] for name in ("loss", "accuracy")}
        logger.info("trained %d epochs: loss %.4f, accuracy %.4f", len(history["loss"]), *metrics.values())
        metadata = {"num_training_examples": len(self.train_part[0]), "dataset": self.dataset_name}
        return self.get_weights(), metrics, metadata

    def evaluate(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> dict[str, float]:
        set_weights(self.model, parameters)
        loss, accuracy = self.model.evaluate(*self.test_part, verbose=0)
        logger.info("the global model has loss %.4f, accuracy %.4f here", loss, accuracy)
        return {"loss": loss, "accuracy": accuracy}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("-l", "--learner", type=int, choices=range(NUM_LEARNERS), required=True, help="which one it is")
    parser.add_argument(
        "--listen",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="be dialled by the controller, on this port instead of dialling; default: 50052 and the following ones",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dataset = load(arguments.dataset, arguments.limit)
    learner = ImageLearner(arguments.learner, dataset)
    num_train, num_test = len(learner.train_part[0]), len(learner.test_part[0])
    print(f"learner {arguments.learner} has {num_train} training and {num_test} test images of {dataset.name}")
    controller = ClientParams(port=arguments.port)
    own_port = None
    if arguments.listen is not None:
        own_port = ServerParams(port=arguments.listen or FIRST_PORT + arguments.learner)
    asyncio.run(run_learner(learner, controller, own_port, learner_id=f"learner-{arguments.learner}"))


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, MetisError) as error:
        sys.exit(str(error) or 130)
