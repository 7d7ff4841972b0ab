"""Accuracy over time when one learner is five times slower than the others: three schedulers, four rules.

A small network on Fashion-MNIST, four learners with skewed classes (Dirichlet, alpha 0.5), in simulated time: a batch
of 32 takes three learners 10 ms and the fourth 50 ms; moving models takes nothing. The decisions, the rules, the
training and the accuracy are real. It matters which classes the slow learner has, so all of it is done for several
draws of the learners' data. Writes docs/images/skewed.png, or the file that --output names, and prints a table; with
--json docs/skewed.json, `report.py --pages` puts it into docs/strategies.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for matrices so small, a second thread mostly waits for its core

from pathlib import Path
from typing import NamedTuple

import numpy as np
from data import load, scaled
from matplotlib.figure import Figure
from numpy.typing import NDArray
from simulation import Simulated, Simulation
from tables import Columns, Run

from metisfl_async import ControllerConfig, Model, TerminationSignals
from metisfl_async.core.ids import LearnerId
from metisfl_async.data import dirichlet_partition
from metisfl_async.strategies import FedAsync

Floats = NDArray[np.float32]
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "skewed.png"
HIDDEN, BATCH, RATE = 32, 32, 0.05
POINTS = 81  #: of a curve
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
        self.order: NDArray[np.int64] = np.empty(0, np.int64)

    def __call__(self, model: Model, batches: int) -> Model:
        w1, b1, w2, b2 = model.copies()
        for _ in range(batches):
            if len(self.order) < BATCH:
                self.order = np.concatenate([self.order, self.random.permutation(len(self.images.y))])
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


def curve(config: ControllerConfig, parts: list[Images], test: Images, seconds: NDArray[np.float64]) -> list[float]:
    """Give the accuracy of the global model that there was at each of these times."""
    learners = [
        Simulated(
            LearnerId(f"site-{number}"), SPEEDS_MS[number], -(-len(part.y) // BATCH), Trains(part, number), len(part.y)
        )
        for number, part in enumerate(parts)
    ]
    signals = TerminationSignals(execution_cutoff_time_mins=seconds[-1] / 60)
    simulation = Simulation(config, learners, first_model(test.x.shape[1]), signals)
    simulation.run()
    made_s = np.array([ms for ms, _ in simulation.published]) / 1e3
    latest = np.searchsorted(made_s, seconds, side="right") - 1
    of_model = {index: accuracy(simulation.published[index][1], test) for index in set(latest.tolist())}
    return [of_model[index] for index in latest.tolist()]


def draw(curves: dict[str, NDArray[np.float64]], seconds: NDArray[np.float64], output: Path) -> None:
    """Draw the means over the draws, and the range from the lowest to the highest."""
    figure = Figure(figsize=(7, 4.6), dpi=144, layout="constrained")
    axes = figure.subplots()
    for (label, values), style in zip(curves.items(), ("-", "--", "-.", ":"), strict=True):
        (line,) = axes.plot(seconds, values.mean(axis=0), style, label=label)
        axes.fill_between(seconds, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.1, lw=0)
    axes.set(xlabel="simulated time (s)", ylabel="test accuracy", xlim=(0, seconds[-1]))
    axes.set_ylim(bottom=0.4)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title(f"One of four learners is five times slower; mean and range of {len(values)} draws", fontsize=10)
    figure.savefig(output)


def main() -> None:
    run = Run(__doc__, minutes=1.5, images=8_000, draws=5, output=IMAGE)
    options = run.options
    if run.is_quick:
        options |= {"minutes": 0.1, "images": 2_000, "draws": 2}
    dataset = load("fashion-mnist")
    x, y = scaled(dataset.x_train).reshape(len(dataset.x_train), -1), dataset.y_train.astype(np.int64)
    test = Images(scaled(dataset.x_test).reshape(len(dataset.x_test), -1), dataset.y_test.astype(np.int64))
    seconds = np.linspace(0.0, options["minutes"] * 60, POINTS)
    found: dict[str, list[list[float]]] = {label: [] for label in CASES}
    for seed in range(1, options["draws"] + 1):
        taken = np.random.default_rng(seed).permutation(len(x))[: options["images"]]
        chunks = dirichlet_partition(x[taken], y[taken], num_partitions=4, alpha=0.5, seed=seed)
        parts = [Images(*part) for part in zip(*chunks, strict=True)]
        for label, config in CASES.items():
            found[label].append(curve(config, parts, test, seconds))
    curves = {label: np.array(values) for label, values in found.items()}
    shown = {f"mean_{part}": POINTS // part if part > 1 else POINTS - 1 for part in (8, 4, 2, 1)}
    columns: Columns = {
        "case": ("scheduler and rule", ""),
        **{key: (f"after {seconds[index]:.2g} s", ".2f") for key, index in shown.items()},
        "lowest": ("lowest", ".2f"),
        "highest": ("highest", ".2f"),
    }
    print(f"\n{dataset.name}: {options['images']} images, mean accuracy of {options['draws']} draws")
    table = run.table("skewed", columns)
    for label, values in curves.items():
        means = values.mean(axis=0)
        taken_at = {key: float(means[index]) for key, index in shown.items()}
        last = values[:, -1]
        table.add(case=label, **taken_at, lowest=float(last.min()), highest=float(last.max()))
    draw(curves, seconds, options["output"])
    run.end()


if __name__ == "__main__":
    main()
