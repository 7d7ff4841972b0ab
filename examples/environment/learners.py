"""A learner that reads handwritten digits: softmax regression in NumPy, on real images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from metisfl_async import Learner
from metisfl_async.data import iid_partition

Weights = list[NDArray[Any]]


class DigitsLearner(Learner):
    """Holds one part of scikit-learn's 1,797 images of 8 x 8 pixels; a fifth of it is kept for testing.

    Parameters
    ----------
    part : int
        Which part is this learner's, from 0.
    parts : int
        How many there are.
    """

    def __init__(self, part: int, parts: int = 3) -> None:
        images, digits = load_digits(return_X_y=True)
        x_chunks, y_chunks = iid_partition(images / 16.0, digits, num_partitions=parts, seed=1990)
        x, y = x_chunks[part], y_chunks[part]
        cut = len(x) // 5
        super().__init__(num_training_examples=len(x) - cut)
        self.test, self.train_part = (x[:cut], y[:cut]), (x[cut:], y[cut:])
        self.rng = np.random.default_rng(part)

    def get_weights(self) -> Weights:
        return [np.zeros((64, 10)), np.zeros(10)]

    def set_weights(self, parameters: Weights) -> None:
        """Keep nothing: every task brings the weights it is about."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        weights, bias = parameters
        x, y = self.train_part
        for _ in range(config["epochs"]):
            order = self.rng.permutation(len(x))
            for start in range(0, len(x), config["batch_size"]):
                batch = order[start : start + config["batch_size"]]
                error = softmax(x[batch] @ weights + bias)
                error[np.arange(len(batch)), y[batch]] -= 1.0
                weights -= config["learning_rate"] * x[batch].T @ error / len(batch)
                bias -= config["learning_rate"] * error.mean(axis=0)
        return [weights, bias], scores(weights, bias, x, y)

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        weights, bias = parameters
        return scores(weights, bias, *self.test)


def softmax(values: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def scores(weights: NDArray[Any], bias: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    shares = softmax(x @ weights + bias)
    loss = -np.log(shares[np.arange(len(y)), y] + 1e-12).mean()
    return {"loss": float(loss), "accuracy": float((shares.argmax(axis=1) == y).mean())}
