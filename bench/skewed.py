"""Accuracy over time when one learner is five times slower than the others: three schedulers, four rules.

A small network on Fashion-MNIST, four learners with skewed classes (Dirichlet, alpha 0.5), in simulated time: a batch
of 32 takes three learners 10 ms and the fourth 50 ms; moving models takes nothing. The decisions, the rules, the
training and the accuracy are real. Writes docs/images/skewed.png, or the file that --output names, and prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from data import load, scaled
from matplotlib.figure import Figure
from numpy.typing import NDArray
from simulation import Simulated, Simulation

from metisfl_async import ControllerConfig, FedAsync, Model, TerminationSignals, dirichlet_partition
from metisfl_async.core.ids import LearnerId

Floats = NDArray[np.float32]
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "skewed.png"
HIDDEN, BATCH, RATE = 32, 32, 0.05
SPEEDS_MS = (10.0, 10.0, 10.0, 50.0)
CASES = {
    "Synchronous, FedAvg": ControllerConfig(evaluate_every=0),
    "SemiSynchronous, FedAvg": ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=1.0, evaluate_every=0),
    "Asynchronous, FedRec": ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec", evaluate_every=0),
    "Asynchronous, FedAsync": ControllerConfig(
        scheduler="Asynchronous", aggregation_rule=FedAsync(0.3), evaluate_every=0
    ),
}


class Images(NamedTuple):
    x: Floats  #: shape (n, pixels)
    y: NDArray[np.int64]  #: shape (n,)


def first_model(pixels: int) -> Model:
    random = np.random.default_rng(0)
    return Model.from_arrays(
        [
            random.normal(0.0, pixels**-0.5, (pixels, HIDDEN)).astype(np.float32),
            np.zeros(HIDDEN, np.float32),
            random.normal(0.0, HIDDEN**-0.5, (HIDDEN, 10)).astype(np.float32),
            np.zeros(10, np.float32),
        ]
    )


class Trains:
    """Plain SGD on a network with one hidden layer; goes through its shuffled images, a batch at a time."""

    def __init__(self, images: Images, seed: int) -> None:
        self.images, self.random = images, np.random.default_rng(seed)
        self.order: list[int] = []

    def __call__(self, model: Model, batches: int) -> Model:
        w1, b1, w2, b2 = model.copies()
        for _ in range(batches):
            if len(self.order) < BATCH:
                self.order += self.random.permutation(len(self.images.y)).tolist()
            taken, self.order = self.order[:BATCH], self.order[BATCH:]
            x, y = self.images.x[taken], self.images.y[taken]
            hidden = np.maximum(x @ w1 + b1, 0.0)
            error = softmax(hidden @ w2 + b2)
            error[np.arange(BATCH), y] -= 1.0
            back = (error @ w2.T) * (hidden > 0.0)
            w2 -= RATE / BATCH * (hidden.T @ error)
            b2 -= RATE * error.mean(axis=0)
            w1 -= RATE / BATCH * (x.T @ back)
            b1 -= RATE * back.mean(axis=0)
        return Model.from_arrays([w1, b1, w2, b2], version=model.version)


def softmax(logits: Floats) -> Floats:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def accuracy(model: Model, images: Images) -> float:
    w1, b1, w2, b2 = model.arrays()
    return float((np.argmax(np.maximum(images.x @ w1 + b1, 0.0) @ w2 + b2, axis=1) == images.y).mean())


def curve(
    config: ControllerConfig, parts: list[Images], test: Images, minutes: float, points: int
) -> tuple[NDArray[np.float64], list[float]]:
    """Seconds since the start, and the accuracy of the global model there was then."""
    learners = [
        Simulated(
            LearnerId(f"site-{number}"), SPEEDS_MS[number], -(-len(part.y) // BATCH), Trains(part, number), len(part.y)
        )
        for number, part in enumerate(parts)
    ]
    signals = TerminationSignals(execution_cutoff_time_mins=minutes)
    simulation = Simulation(config, learners, first_model(test.x.shape[1]), signals)
    simulation.run()
    made_s = np.array([ms for ms, _ in simulation.published]) / 1e3
    seconds = np.linspace(0.0, minutes * 60, points)
    latest = np.searchsorted(made_s, seconds, side="right") - 1
    return seconds, [accuracy(simulation.published[index][1], test) for index in latest]


def draw(curves: dict[str, tuple[NDArray[np.float64], list[float]]], output: Path) -> None:
    figure = Figure(figsize=(7, 4), dpi=144, layout="constrained")
    axes = figure.subplots()
    for (label, (seconds, values)), style in zip(curves.items(), ("-", "--", "-.", ":"), strict=True):
        axes.plot(seconds, values, style, label=label)
    axes.set(xlabel="simulated seconds", ylabel="test accuracy", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title("One of four learners is five times slower", fontsize=11)
    figure.savefig(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.5, help="simulated; default: %(default)s")
    parser.add_argument("--images", type=int, default=8_000, help="to train on; default: %(default)s")
    parser.add_argument("--output", type=Path, default=IMAGE, help="the picture; default: docs/images/skewed.png")
    options = parser.parse_args()
    dataset = load("fashion-mnist")
    taken = np.random.default_rng(1).permutation(len(dataset.x_train))[: options.images]
    x = scaled(dataset.x_train[taken]).reshape(len(taken), -1)
    y = dataset.y_train[taken].astype(np.int64)
    parts = [Images(*part) for part in dirichlet_partition(x, y, num_partitions=4, alpha=0.5, seed=7)]
    test = Images(scaled(dataset.x_test).reshape(len(dataset.x_test), -1), dataset.y_test.astype(np.int64))
    print(f"{dataset.name}: {[len(part.y) for part in parts]} images, {options.minutes:g} simulated minutes\n")
    print("| scheduler and rule | after 1/8 of the time | 1/4 | 1/2 | all |")
    print("| --- |" + " ---: |" * 4)
    curves = {}
    for label, config in CASES.items():
        seconds, values = curves[label] = curve(config, parts, test, options.minutes, points=121)
        at = [values[index] for index in (15, 30, 60, 120)]
        print(f"| {label} | " + " | ".join(f"{value:.3f}" for value in at) + " |", flush=True)
        assert len(seconds) == len(values)
    draw(curves, options.output)


if __name__ == "__main__":
    main()
