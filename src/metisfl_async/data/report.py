"""Who got what, as numbers; `plot_partitions` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.errors import ConfigError
from metisfl_async.data.rows import class_labels

__all__ = ["PartitionReport", "partition_report"]

SHOWN = 20  #: parts, and classes, in its text


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PartitionReport:
    """How many examples of each class each part has; its text is a table."""

    classes: list[Any]  #: the labels, sorted
    counts: NDArray[np.int64]  #: shape (parts, classes)

    @property
    def sizes(self) -> list[int]:
        """Give the number of examples of each part."""
        return [int(size) for size in self.counts.sum(axis=1)]

    @property
    def skews(self) -> list[float]:
        """Give for each part how far its classes are from those of all parts together; of an empty one, NaN.

        It is the total variation distance of the two distributions: 0 is alike; 0.25: a quarter of its examples would
        have to be of other classes; nearly 1: it has classes that nobody else has.
        """
        of_all = self.counts.sum(axis=0) / max(int(self.counts.sum()), 1)
        return [
            float(np.abs(part / part.sum() - of_all).sum() / 2) if part.any() else float("nan") for part in self.counts
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON-like data."""
        classes = [str(label) for label in self.classes]
        parts = [dict(zip(classes, part, strict=True)) for part in self.counts.tolist()]
        return {"parts": parts, "sizes": self.sizes, "skews": self.skews}

    def __repr__(self) -> str:
        classes, more = self.classes[:SHOWN], len(self.classes) > SHOWN
        rows = [["part", "examples", "skew", *map(str, classes), *(["..."] if more else [])]]
        for number, (size, skew, part) in enumerate(zip(self.sizes, self.skews, self.counts, strict=True)):
            if number == SHOWN:
                rows.append([f"and {len(self.counts) - SHOWN} more parts"])
                break
            counts = [str(count) for count in part[:SHOWN].tolist()]
            rows.append([str(number), str(size), f"{skew:.2f}", *counts, *(["..."] if more else [])])
        widths = [max(len(row[column]) for row in rows if len(row) > 1) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False)) for row in rows)


def partition_report(y_chunks: Sequence[Any]) -> PartitionReport:
    """Count the classes of each part.

    ::

        x_chunks, y_chunks = dirichlet_partition(x, y, num_partitions=3)
        print(partition_report(y_chunks))

    Parameters
    ----------
    y_chunks : sequence of class labels, shape (n,) each
        The labels of each part, as the partition functions give them.
    """
    sorted_out = [class_labels(y) for y in _labels_of_parts(y_chunks)]
    present = [classes for labels, classes in sorted_out if len(labels)]
    classes = np.unique(np.concatenate(present)) if present else np.empty(0)
    counts = [[np.count_nonzero(labels == label) for label in classes] for labels, _ in sorted_out]
    return PartitionReport(classes.tolist(), np.array(counts, np.int64).reshape(len(sorted_out), len(classes)))


def _labels_of_parts(y_chunks: Sequence[Any]) -> Sequence[Any]:
    """Refuse ``(x_chunks, y_chunks)`` in place of the labels alone."""
    if isinstance(y_chunks, tuple) and len(y_chunks) == 2 and all(isinstance(chunks, list) for chunks in y_chunks):
        raise ConfigError("y_chunks", "(x_chunks, y_chunks)", "y_chunks alone, the labels of each part")
    return y_chunks
