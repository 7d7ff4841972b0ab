"""What is plotted of rounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from metisfl_async.core.federation.records import SPENT, RoundRecord
from metisfl_async.data.figures import ShownFigure

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:  # pragma: no cover - only where matplotlib is missing
    raise ImportError("plots need matplotlib: pip install matplotlib") from error

__all__ = ["draw_rounds"]

ABREAST = 3  #: panels in a row, at most: more are too small to read where the picture is shown
MANY = 50  #: points; more of them are drawn as a line alone


def draw_rounds(records: Sequence[RoundRecord], x: Literal["number", "time"]) -> Figure:
    """Draw the weighted means of training and evaluation, one panel a metric; loss and accuracy come first.

    The last panel has the privacy spent, where a rule says it. Thin lines are the single learners' evaluations, those
    below relays among them. Along the x axis are the records' numbers, or the times when they were complete.
    """
    published = [record for record in records if record.is_published]
    names = sorted(
        {name for record in published for name in (*record.train_metrics, *record.evaluation_metrics, *record.central)},
        key=lambda name: (name != "loss", name != "accuracy", name),
    )
    names = [name for name in names if not name.startswith("num_")]
    names += [SPENT] if any(record.privacy for record in published) else []
    names = names or ["no metric was reported"]
    rows = math.ceil(len(names) / ABREAST)
    columns = math.ceil(len(names) / rows)
    figure = ShownFigure(figsize=(4.6 * columns, 3.6 * rows), dpi=144, layout="constrained")
    for place, name in enumerate(names, start=1):
        _panel(figure.add_subplot(rows, columns, place), name, published, x)
    return figure


def _panel(axes: Axes, name: str, records: Sequence[RoundRecord], x: Literal["number", "time"]) -> None:
    """Draw one metric: lines of means; where models are made of single updates, dots for what those say of training."""
    at = {record.number: _ended_s(record) if x == "time" else record.number for record in records}
    in_rounds = all(record.in_rounds for record in records)

    def line(values: Iterable[tuple[RoundRecord, float | None]]) -> tuple[list[float], list[float]]:
        points = sorted((at[record.number], value) for record, value in values if value is not None)
        return [point[0] for point in points], [point[1] for point in points]

    evaluations = [(record, record.evaluations) for record in records]
    learners = sorted({learner for _, measured in evaluations for learner in measured})
    label = "each learner"
    for learner in learners if len(learners) <= 20 else ():
        points = line((record, measured.get(learner, {}).get(name)) for record, measured in evaluations)
        if points[0]:
            axes.plot(*points, color="tab:blue", alpha=0.25, linewidth=1, label=label)
            label = "_"  # one entry in the legend stands for all
    training = line((record, record.train_metrics.get(name)) for record in records)
    if training[0] and in_rounds:
        axes.plot(*training, "--", color="tab:orange", label="training", **_markers(training))
    elif training[0]:
        axes.plot(*training, ".", color="tab:orange", markersize=3, alpha=0.5, label="training of each update")
    evaluation = line((record, record.evaluation_metrics.get(name)) for record in records)
    if evaluation[0]:
        axes.plot(*evaluation, color="tab:blue", label="evaluation", **_markers(evaluation))
    central = line((record, record.central.get(name)) for record in records)
    if central[0]:
        axes.plot(*central, color="tab:green", label="central evaluation", **_markers(central))
    spent = line((record, record.privacy.get("epsilon") if name == SPENT else None) for record in records)
    if spent[0]:
        axes.plot(*spent, color="tab:red", label="spent so far", **_markers(spent))
    if x == "time":
        axes.set_xlim(left=0.0)
        axes.set_xlabel("seconds since the start")
    else:
        axes.set_xlim(left=0.5)  # there is no round 0
        axes.set_xlabel("round" if in_rounds else "model version")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(name)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _ended_s(record: RoundRecord) -> float:
    return (record.started_ms + record.duration_ms) / 1e3


def _markers(points: tuple[list[float], list[float]]) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(points[0]) <= MANY else {}
