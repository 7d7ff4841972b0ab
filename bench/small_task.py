"""Many learners with little data: fifty images of Fashion-MNIST each, and a small network. In NumPy, for any system."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXAMPLES", "Weights", "accuracy", "first_weights", "part", "train"]

EXAMPLES = 50  #: of each learner
HIDDEN, STEP, BATCH = 32, 0.1, 10
Array: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = list[Array]


@lru_cache(maxsize=1)
def _arrays(directory: str) -> dict[str, NDArray[Any]]:
    return {file.stem: np.load(file, mmap_mode="r") for file in Path(directory).glob("*.npy")}


def part(directory: str, number: int) -> tuple[Array, NDArray[np.int64]]:
    """Give the images and labels of one learner."""
    arrays, mine = _arrays(directory), slice(number * EXAMPLES, (number + 1) * EXAMPLES)
    return _scaled(arrays["x_train"][mine]), arrays["y_train"][mine].astype(np.int64)


def first_weights() -> Weights:
    rng = np.random.default_rng(1)
    sizes = [(784, HIDDEN), (HIDDEN, 10)]
    drawn = [(rng.standard_normal(size, np.float32) / np.float32(size[0] ** 0.5), size[1]) for size in sizes]
    return [array for weights, width in drawn for array in (weights, np.zeros(width, np.float32))]


def train(weights: Weights, x: Array, y: NDArray[np.int64]) -> Weights:
    """Go once over the images."""
    w1, b1, w2, b2 = (array.copy() for array in weights)
    for at in range(0, len(x), BATCH):
        images, labels = x[at : at + BATCH], y[at : at + BATCH]
        hidden = np.maximum(images @ w1 + b1, 0)
        error = _softmax(hidden @ w2 + b2)
        error[np.arange(len(labels)), labels] -= 1
        error *= np.float32(STEP / len(labels))
        back = (error @ w2.T) * (hidden > 0)
        w2 -= hidden.T @ error
        b2 -= error.sum(axis=0)
        w1 -= images.T @ back
        b1 -= back.sum(axis=0)
    return [w1, b1, w2, b2]


def accuracy(weights: Weights, directory: str) -> float:
    """Measure a model on the images that no learner has."""
    arrays, (w1, b1, w2, b2) = _arrays(directory), weights
    scores = np.maximum(_scaled(arrays["x_test"]) @ w1 + b1, 0) @ w2 + b2
    return float((scores.argmax(axis=1) == arrays["y_test"]).mean())


def _scaled(images: NDArray[Any]) -> Array:
    scaled: Array = np.asarray(images, np.float32).reshape(len(images), -1) / np.float32(255)
    return scaled


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = raised / raised.sum(axis=1, keepdims=True)
    return shares
