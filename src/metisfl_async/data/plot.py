"""A picture of who got what, for those who have matplotlib: ``pip install matplotlib``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metisfl_async.data.report import partition_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_partitions"]


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
    from metisfl_async.data.figures import draw_partitions

    figure = draw_partitions(partition_report(y_chunks))
    if path is not None:
        figure.savefig(path)
    return figure
