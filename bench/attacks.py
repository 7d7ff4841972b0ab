"""What each rule makes of two learners of ten that attack: the accuracy of the model that comes of it.

A small network on Fashion-MNIST, ten learners with skewed classes (Dirichlet, alpha 0.5). The rules, the training and
the accuracy are real; nothing moves, and the attackers know what everybody else sends. It matters who attacks, so all
of it is done for several draws of the learners' data. Writes docs/images/robustness.png, or the file that --output
names, and prints a table; with --json docs/robustness.json, `report.py --pages` puts it into docs/robustness.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for matrices so small, a second thread mostly waits for its core

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from data import load, scaled
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skewed import BATCH, Images, Trains, accuracy, first_model
from tables import Columns, Run

from metisfl_async import ConfigError, Model
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.core.strategies.aggregation.rule import made
from metisfl_async.core.strategies.scaling import weight_of
from metisfl_async.data import dirichlet_partition
from metisfl_async.errors import NoModel
from metisfl_async.strategies import (
    AggregationRule,
    Bulyan,
    CenteredClipping,
    FedAvg,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NormBound,
    TrimmedMean,
    Update,
)

Floats = NDArray[np.float32]
Sent: TypeAlias = tuple[Model, float]  #: an update, and how many examples its learner claims
#: Gives what an attacker sends: of the global model, what it has trained, what the honest ones send, and its examples.
Attack: TypeAlias = Callable[[Model, Model, Sequence[Model], float], Sent]

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "robustness.png"
LEARNERS, ATTACKERS = 10, 2
TAU = 0.5  #: a little more than what honest learners change, after the first rounds
CLAIM, MAX_WEIGHT = 1e9, 4_000.0  #: as much as is let in by default, and what is let in where the limit is set
Z = 1.5  #: how many standard deviations are a little

#: A rule, and the largest weight that is let in.
RULES: dict[str, tuple[Callable[[], AggregationRule], float]] = {
    "FedAvg": (FedAvg, CLAIM),
    "FedAvg, max_weight": (FedAvg, MAX_WEIGHT),
    "NormBound of FedAvg": (lambda: NormBound(TAU), CLAIM),
    "Median": (Median, CLAIM),
    "TrimmedMean(2)": (lambda: TrimmedMean(2), CLAIM),
    "Krum(2)": (lambda: Krum(2), CLAIM),
    "MultiKrum(2)": (lambda: MultiKrum(2), CLAIM),
    "GeometricMedian": (GeometricMedian, CLAIM),
    "CenteredClipping": (lambda: CenteredClipping(TAU), CLAIM),
    "Bulyan(1)": (lambda: Bulyan(1), CLAIM),
}


def moved(base: Model, trained: Model, factor: float) -> Model:
    """Go so many times as far as training did."""
    pairs = zip(base.arrays(), trained.arrays(), strict=True)
    return Model.from_arrays([before + np.float32(factor) * (after - before) for before, after in pairs])


def a_little(honest: Sequence[Model]) -> Model:
    """Stay within what honest updates differ by, all in the same direction (Baruch et al., arXiv:1902.06156)."""
    tensors = zip(*(update.arrays() for update in honest), strict=True)
    return Model.from_arrays([np.mean(each, axis=0) - np.float32(Z) * np.std(each, axis=0) for each in tensors])


ATTACKS: dict[str, tuple[str, Attack]] = {
    "none": ("nobody", lambda base, trained, honest, examples: (trained, examples)),
    "thousand": ("x 1000", lambda base, trained, honest, examples: (moved(base, trained, 1000.0), examples)),
    "flip": ("sign flip", lambda base, trained, honest, examples: (moved(base, trained, -4.0), examples)),
    "constant": (
        "constant",
        lambda base, trained, honest, examples: (
            Model.from_arrays([np.ones_like(before) for before in base.arrays()]),
            examples,
        ),
    ),
    "little": ("a little", lambda base, trained, honest, examples: (a_little(honest), examples)),
    "claim": ("claims", lambda base, trained, honest, examples: (trained, CLAIM)),
}


def reached(
    rule: AggregationRule, max_weight: float, attack: str, parts: Sequence[Images], test: Images, *, rounds: int
) -> float:
    """Give the accuracy after so many rounds."""
    _, send = ATTACKS[attack]
    random = np.random.default_rng(0)
    if attack == "claim":  # what they have learned is worth nothing
        wrong = [Images(part.x, random.permutation(part.y)) for part in parts[:ATTACKERS]]
        parts = [*wrong, *parts[ATTACKERS:]]
    learners = [Trains(part, number) for number, part in enumerate(parts)]
    model = first_model(test.x.shape[1])
    rule.start(model)
    for version in range(1, rounds + 1):
        base = model
        trained = [learner(base, -(-len(part.y) // BATCH)) for learner, part in zip(learners, parts, strict=True)]
        for number, update in enumerate(trained):
            sent, examples = update, float(len(parts[number].y))
            if number < ATTACKERS:
                sent, examples = send(base, update, trained[ATTACKERS:], examples)
            fold(rule, LearnerId(f"site-{number}"), sent, examples, max_weight)
        try:
            model = made(rule, version)
        except NoModel:
            rule.take_back(base)
    return accuracy(model, test)


def fold(rule: AggregationRule, learner: LearnerId, sent: Model, examples: float, max_weight: float) -> None:
    """Let an update in, if the controller would."""
    if unfit(sent) is None:
        try:
            weight = weight_of("NumTrainingExamples", learner, {"num_training_examples": examples}, {}, max_weight)
        except ConfigError:
            return
        rule.fold(Update(learner, sent, weight))


def draw(found: dict[str, dict[str, list[float]]], output: Path) -> None:
    """Draw the means over the draws, and the range from the lowest to the highest."""
    figure = Figure(figsize=(9, 4), dpi=144, layout="constrained")
    panels = figure.subplots(1, len(ATTACKS), sharey=True)
    labels = list(found)
    for axes, (attack, (title, _)) in zip(panels, ATTACKS.items(), strict=True):
        for row, label in enumerate(labels):
            values = found[label][attack]
            mean = float(np.mean(values))
            color = "tab:red" if mean < 0.5 else "tab:blue"
            axes.plot([min(values), max(values)], [row, row], color=color, alpha=0.4, lw=3)
            axes.plot(mean, row, "o", color=color, ms=5)
        axes.set(xlim=(0.0, 1.0), title=title, yticks=range(len(labels)), yticklabels=labels)
        axes.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
        axes.grid(alpha=0.3)
    panels[0].invert_yaxis()
    figure.suptitle(f"Two of ten learners attack; mean and range of {len(values)} draws", fontsize=10)
    figure.supxlabel("test accuracy", fontsize=10)
    figure.savefig(output)


def main() -> None:
    run = Run(__doc__, rounds=25, images=6_000, draws=3, output=IMAGE)
    options = run.options
    if run.is_quick:
        options |= {"rounds": 2, "images": 1_000, "draws": 1}
    dataset = load("fashion-mnist")
    x, y = scaled(dataset.x_train).reshape(len(dataset.x_train), -1), dataset.y_train.astype(np.int64)
    test = Images(scaled(dataset.x_test).reshape(len(dataset.x_test), -1), dataset.y_test.astype(np.int64))
    found: dict[str, dict[str, list[float]]] = {label: {attack: [] for attack in ATTACKS} for label in RULES}
    draws = []
    for seed in range(1, options["draws"] + 1):
        taken = np.random.default_rng(seed).permutation(len(x))[: options["images"]]
        chunks = dirichlet_partition(x[taken], y[taken], num_partitions=LEARNERS, alpha=0.5, seed=seed)
        draws.append([Images(*part) for part in zip(*chunks, strict=True)])
    columns: Columns = {"rule": ("rule", ""), **{attack: (title, ".2f") for attack, (title, _) in ATTACKS.items()}}
    print(f"\n{dataset.name}: {options['images']} images, {options['rounds']} rounds, mean of {options['draws']} draws")
    table = run.table("robust", columns)
    for label, (new, max_weight) in RULES.items():
        for attack in ATTACKS:
            with np.errstate(all="ignore"):  # a model that is spoilt has no gradients worth the name
                found[label][attack] = [
                    reached(new(), max_weight, attack, parts, test, rounds=options["rounds"]) for parts in draws
                ]
        table.add(rule=label, **{attack: float(np.mean(values)) for attack, values in found[label].items()})
    draw(found, options["output"])
    run.end()


if __name__ == "__main__":
    main()
