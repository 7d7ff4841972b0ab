"""Plots, for those who have matplotlib: ``pip install matplotlib``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.data.report import partition_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_partitions", "plot_rounds"]


def plot_rounds(records: Sequence[RoundRecord], path: str | Path | None, x: Literal["number", "time"]) -> Figure:
    """Draw loss and accuracy, or whatever was measured, per round; with a path, also save it there."""
    if x not in ("number", "time"):
        raise ConfigError("x", x, "'number' or 'time'")
    from metisfl_async.driver.figures import draw_rounds

    return _saved(draw_rounds(records, x), path)


def plot_partitions(y_chunks: Sequence[Any], path: str | Path | None = None) -> Figure:
    """Draw who got what: a bar for each part, as long as it has examples, cut into its classes.

    `partition_report` gives the same as numbers.

    Needs matplotlib: ``pip install matplotlib``.

    Parameters
    ----------
    y_chunks : sequence of class labels, shape (n,) each
        The labels of each part, as the partition functions give them.
    path : str or Path, optional
        Where to save it.
    """
    from metisfl_async.driver.figures import draw_partitions

    return _saved(draw_partitions(partition_report(y_chunks)), path)


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure
