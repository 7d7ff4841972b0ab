"""How time and memory grow with learners and parameters: a picture of the stress test's figures, and what they come to.

Not a benchmark of its own: `report.py` calls it with the tables of a run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from tables import Columns, Row, Table

__all__ = ["draw", "each", "on_paper"]

EACH: Columns = {
    "parameters": ("parameters", ",d"),
    "round_ms": ("round (ms)", ".1f"),
    "cpu_ms": ("CPU (ms)", ".1f"),
    "moved_mb": ("moved (MB)", ".1f"),
    "rss_mb": ("peak RSS (MB)", ".1f"),
}
ON_PAPER: Columns = {
    "learners": ("learners", ",d"),
    "idle_mb": ("memory while idle (MB)", ",.0f"),
    "heartbeats": ("heartbeats (share of a core)", ".0%"),
    "small_s": ("a round of 100,000 parameters (s)", ",.0f"),
    "medium_s": ("a round of 1,000,000 (s)", ",.0f"),
    "medium_mb": ("memory with 1,000,000 (MB)", ",.0f"),
    "large_s": ("a round of 10,000,000 (s)", ",.0f"),
    "moved_gb": ("moved with 10,000,000 (GB)", ",.0f"),
}
SIZES = {"small_s": 100_000, "medium_s": 1_000_000, "large_s": 10_000_000}
SLOPES = ("round_ms", "cpu_s", "moved_mb", "rss_mb")
SHOWN = (("round_ms", "federation round (ms)"), ("rss_mb", "peak RSS of controller and driver (MB)"))
AGAINST = (("learners", "parameters"), ("parameters", "learners"))
MARKERS = "osD^v"
ENOUGH = 3  #: rows for a line


def each(stress: Table) -> Table:
    """Say what one more learner adds: the slope of the line through all numbers of learners, all as important."""
    table = Table(EACH)
    for parameters in SIZES.values():
        rows = [row for row in _measured(stress) if row["parameters"] == parameters]
        if len(rows) < ENOUGH:
            continue
        slopes = {key: _line(rows, key)[0] for key in SLOPES}
        table.rows.append(
            {
                "parameters": parameters,
                "round_ms": slopes["round_ms"],
                "cpu_ms": slopes["cpu_s"] * 1e3,
                "moved_mb": slopes["moved_mb"],
                "rss_mb": slopes["rss_mb"],
            }
        )
    return table


def on_paper(stress: Table, idle: Table) -> Table:
    """Multiply that, and what an idle learner takes, by numbers of learners that were not tried."""
    table = Table(ON_PAPER)
    costs = {row["parameters"]: row for row in each(stress).rows}
    medium = [row for row in _measured(stress) if row["parameters"] == SIZES["medium_s"]]
    memory = _line(medium, "rss_mb") if len(medium) >= ENOUGH else None

    def times(learners: int, parameters: int, key: str) -> float | str:
        return learners * costs[parameters][key] / 1e3 if parameters in costs else "-"

    for measured in idle.rows:
        for learners in (1_000, 10_000, 100_000):
            table.rows.append(
                {
                    "learners": learners,
                    "idle_mb": measured["before_mb"] + learners * measured["kb_each"] / 1e3,
                    "heartbeats": learners / measured["learners"] * measured["of_a_core"],
                    **{name: times(learners, parameters, "round_ms") for name, parameters in SIZES.items()},
                    "medium_mb": "-" if memory is None else learners * memory[0] + memory[1],
                    "moved_gb": times(learners, SIZES["large_s"], "moved_mb"),
                }
            )
    return table


def draw(stress: Table, file: Path) -> None:
    """Draw round time and memory, against learners and against parameters."""
    figure = Figure(figsize=(9, 7), dpi=144, layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for line, (key, label) in zip(panels, SHOWN, strict=True):
        for axes, (x, by) in zip(line, AGAINST, strict=True):
            _panel(axes, _measured(stress), x, by, key)
        line[0].set_ylabel(label)
    for top, bottom, (x, by) in zip(*panels, AGAINST, strict=True):
        top.legend(title=by, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=5, columnspacing=1.0)
        bottom.set_xlabel(x)
    figure.savefig(file)


def _measured(stress: Table) -> list[Row]:
    """Leave out what did not fit the machine, and what is no model."""
    return [row for row in stress.rows if row["parameters"] > 1 and not isinstance(row["round_ms"], str)]


def _line(rows: list[Row], key: str) -> tuple[float, float]:
    """Give slope and height of the line against the learners, where all numbers of them are as important."""
    learners = np.array([row["learners"] for row in rows], float)
    slope, height = np.polyfit(learners, [row[key] for row in rows], 1, w=1 / learners)
    return float(slope), float(height)


def _panel(axes: Axes, rows: list[Row], x: str, by: str, key: str) -> None:
    groups = sorted({row[by] for row in rows})
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(groups)))
    for group, colour, marker in zip(groups, colours, MARKERS, strict=False):
        points = sorted((row[x], row[key]) for row in rows if row[by] == group)
        axes.loglog(*zip(*points, strict=True), marker=marker, ms=4, color=colour, label=_short(group))
    ticks = sorted({row[x] for row in rows})
    axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


def _short(number: int) -> str:
    return f"{number // 1_000_000} M" if number >= 1_000_000 else f"{number:,}"
