"""Rows of a data set, whatever library it is of: how many there are, some of them, and their class labels.

Nothing of these libraries is imported: what an object can do says how it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array

__all__ = ["Indices", "class_labels", "column_of", "count_of", "taken"]

Indices: TypeAlias = NDArray[np.intp]
T = TypeVar("T")

ALLOWED = (
    "an array, a tensor, a list, a pandas Series or frame, or a Hugging Face dataset; of anything else that has a "
    "length, such as a torch Dataset, partition np.arange(len(data)), and take torch.utils.data.Subset(data, rows)"
)


def count_of(field: str, data: Any) -> int:
    """Count the examples."""
    if _is_listed(data) or _is_dataset(data):
        return len(data)
    shape = getattr(data, "shape", None)
    if shape is None or isinstance(data, type):
        raise ConfigError(field, type(data).__name__, ALLOWED)
    if len(shape) == 0:
        raise ConfigError(field, "one value", "one for each example")
    return int(shape[0])


def taken(data: T, rows: Indices) -> T:
    """Take these rows, in this order, as the data set's own library does; of TensorFlow's tensors, as an array."""
    source: Any = data
    if _is_listed(source):
        whole = source[:]
        part: Any = [whole[row] for row in rows.tolist()]
    elif _is_dataset(source):
        part = source.select(rows)
    elif hasattr(source, "iloc"):  # pandas' own [] looks for labels of rows
        part = source.iloc[rows]
    else:
        try:
            part = source[rows]
        except TypeError:  # TensorFlow's takes no list of rows
            part = np.asarray(source)[rows]
    return part  # type: ignore[no-any-return]


def column_of(data: Any, name: str) -> Any:
    """Find the column of a frame or dataset that has the labels."""
    names = list(getattr(data, "column_names", getattr(data, "columns", ())))
    if name not in names:
        allowed = f"one of the columns {names}" if names else "the labels: the examples have no columns"
        raise ConfigError("y", name, allowed)
    return data[name]


def class_labels(y: Any) -> tuple[Array, Array]:
    """Give the labels by which examples are sorted into classes, one for each, and the classes.

    Raises
    ------
    ConfigError
        If there is not one label for each example, a label is missing (NaN, None), or they cannot be sorted.
    """
    y = y[:] if _is_listed(y) else y  # a column of a dataset is read when it is asked for
    labels = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        allowed = "class labels, shape (n,); of one-hot labels, y.argmax(axis=1)"
        raise ConfigError("y", f"an array of shape {labels.shape}", allowed)
    if missing := int(np.count_nonzero(_are_missing(labels))):
        allowed = "a label for each example: neither NaN nor None"
        raise ConfigError("y", f"{len(labels)} labels, of which {missing} are missing", allowed)
    try:
        return labels, np.unique(labels)
    except TypeError as error:
        raise ConfigError("y", "labels of several types", f"labels of one type: {error}") from error


def _is_listed(data: object) -> bool:
    """Say whether it is a list, or is read like one; a tuple would be (x, y) rather than examples."""
    return isinstance(data, Sequence) and not isinstance(data, str | bytes | tuple)


def _is_dataset(data: object) -> bool:
    """Say whether it is a dataset of Hugging Face."""
    return hasattr(data, "select") and hasattr(data, "column_names") and hasattr(data, "__len__")


def _are_missing(labels: Array) -> Sequence[bool] | NDArray[np.bool_]:
    if labels.dtype.kind in "fc":
        return np.isnan(labels)
    if labels.dtype.kind in "mM":
        return np.isnat(labels)
    return [_is_missing(label) for label in labels] if labels.dtype == object else []


def _is_missing(label: Any) -> bool:
    """Say whether it is None, or not equal to itself as NaN is; pandas' NA does not even say that."""
    try:
        return label is None or bool(label != label)  # noqa: PLR0124
    except TypeError:
        return True
