"""What is plotted of data; matplotlib is imported here, and where rounds are plotted."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from metisfl_async.data.report import PartitionReport

try:
    from matplotlib.figure import Figure
except ImportError as error:  # pragma: no cover - only where matplotlib is missing
    raise ImportError("plots need matplotlib: pip install matplotlib") from error

__all__ = ["ShownFigure", "draw_partitions"]


class ShownFigure(Figure):
    """A figure that notebooks show, without matplotlib's global state."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def draw_partitions(report: PartitionReport) -> Figure:
    """Draw a bar for each part, as long as it has examples, cut into its classes."""
    num_parts = len(report.counts)
    figure = ShownFigure(figsize=(7, 1.2 + 0.4 * num_parts), dpi=144, layout="constrained")
    axes, rows, left = figure.subplots(), np.arange(num_parts), np.zeros(num_parts)
    for label, widths in zip(report.classes, report.counts.T, strict=True):
        axes.barh(rows, widths, left=left, label=str(label), edgecolor="white", linewidth=0.5)
        left += widths
    axes.set_yticks(rows, [f"part {number}" for number in rows])
    axes.invert_yaxis()
    axes.set_xlabel("examples")
    figure.legend(title="class", loc="outside right center")
    return figure
