"""Real images: CIFAR-10; where it cannot be had, Fashion-MNIST; where that is missing too, scikit-learn's digits."""

from __future__ import annotations

import gzip
import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

KERAS_CACHE = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package dataset-fashion-mnist puts it
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ANSWER_S = 5.0  # how long that server may take to answer
FIRST_PORT = 50052  # of the learners, if they listen; the controller has 50051


class Dataset(NamedTuple):
    """Images as bytes, 0 to 255, and their labels, 0 to 9."""

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]

    def __str__(self) -> str:
        size = " x ".join(map(str, self.x_train.shape[1:]))
        return f"{self.name}, {len(self.x_train)} training and {len(self.x_test)} test images of {size}"


class Missing(Exception):
    """A data set cannot be had; the text says why, and how to get it."""


def load(name: str, limit: int | None = None) -> Dataset:
    """Give a data set, or where it cannot be had, say so and give the next one of `LOADERS`.

    With `limit`, only so many training images, and so many test images.
    """
    names = list(LOADERS)
    for candidate in names[names.index(name) :]:
        try:
            dataset = Dataset(candidate, *LOADERS[candidate]())
        except Missing as why:
            print(f"{candidate} cannot be had: {why}")
        else:
            if candidate != name:
                print(f"using {candidate} instead of {name}")
            return Dataset(candidate, *(array[:limit] for array in dataset[1:]))
    raise SystemExit("there is no data set to train on; the lines above say how to get one")


def scaled(images: NDArray[Any]) -> NDArray[np.float32]:
    """Turn bytes into numbers from 0 to 1."""
    return images.astype(np.float32) / np.float32(255)


def options(description: str | None) -> ArgumentParser:
    """Give the options that all scripts of this example share, so that all can be started with the same ones."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=LOADERS, default="cifar10", help="default: %(default)s")
    parser.add_argument("--limit", type=int, metavar="N", help="use only N training and N test images")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="of every learner in every round; default: %(default)s")
    parser.add_argument("--port", type=int, default=50051, help="of the controller; default: %(default)s")
    return parser


# --- the data sets; each gives x_train, y_train, x_test, y_test ------------------------------------------------------


def _cifar10() -> list[NDArray[Any]]:
    if not (KERAS_CACHE / "cifar-10-batches-py-target_archive").exists() and not _answers(CIFAR10_URL):
        raise Missing(f"it is not in {KERAS_CACHE}, and {CIFAR10_URL} cannot be reached")
    import model  # noqa: F401 - it imports keras quietly
    from keras.datasets import cifar10

    try:
        with _one_at_a_time():
            (x_train, y_train), (x_test, y_test) = cifar10.load_data()
    except Exception as error:  # keras raises nothing more precise
        raise Missing(f"keras could not load it: {error}") from error
    return [x_train, y_train.ravel(), x_test, y_test.ravel()]


def _fashion_mnist() -> list[NDArray[Any]]:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for folder in (KERAS_CACHE / "fashion-mnist", DEBIAN):
        files = [folder / f"{kind}-ubyte.gz" for kind in kinds]
        if all(file.exists() for file in files):
            return [_read_idx(file) for file in files]
    raise Missing(
        f"it is neither in {KERAS_CACHE} nor in {DEBIAN}. Get it with `apt-get install dataset-fashion-mnist` "
        "on Debian or Ubuntu, or with `python -c 'import keras; keras.datasets.fashion_mnist.load_data()'`"
    )


def _digits() -> list[NDArray[Any]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise Missing("get it with `pip install scikit-learn`") from error
    digits = load_digits()
    images, labels = (digits.images * 255 / 16).astype(np.uint8), digits.target.astype(np.uint8)
    order = np.random.default_rng(1990).permutation(len(images))  # its writers come one after the other
    train, test = order[:1437], order[1437:]
    return [images[train], labels[train], images[test], labels[test]]


LOADERS: dict[str, Callable[[], list[NDArray[Any]]]] = {
    "cifar10": _cifar10,
    "fashion-mnist": _fashion_mnist,
    "digits": _digits,
}


def _read_idx(path: Path) -> NDArray[Any]:
    data = gzip.decompress(path.read_bytes())
    num_dimensions = data[3]
    shape = np.frombuffer(data, ">i4", num_dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)


def _answers(url: str) -> bool:
    """Ask in a thread of its own: the timeout of `urlopen` does not cover a name server that is silent."""
    answers: list[int] = []

    def ask() -> None:
        with suppress(OSError, HTTPException), urlopen(Request(url, method="HEAD"), timeout=ANSWER_S) as answer:
            answers.append(answer.status)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    return bool(answers)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep other processes waiting: keras downloads to one file, and unpacks it anew whenever it is read."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
