"""Plots, for those who have matplotlib: ``pip install matplotlib``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.records import RoundRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_rounds"]


def plot_rounds(records: Sequence[RoundRecord], path: str | Path | None, x: Literal["number", "time"]) -> Figure:
    """Draw loss and accuracy, or whatever was measured, per round; with a path, also save it there."""
    if x not in ("number", "time"):
        raise ConfigError("x", x, "'number' or 'time'")
    from metisfl_async.driver.figures import draw_rounds

    return _saved(draw_rounds(records, x), path)


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return figure
