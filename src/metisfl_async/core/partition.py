"""Cutting one data set into the parts that learners hold."""

from __future__ import annotations

from typing import overload

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array

__all__ = ["iid_partition"]


@overload
def iid_partition(x: Array, y: None = None, *, num_partitions: int, seed: int = 1990) -> list[Array]: ...


@overload
def iid_partition(x: Array, y: Array, *, num_partitions: int, seed: int = 1990) -> list[tuple[Array, Array]]: ...


def iid_partition(
    x: Array, y: Array | None = None, *, num_partitions: int, seed: int = 1990
) -> list[tuple[Array, Array]] | list[Array]:
    """Shuffle examples and deal them out in equal parts; the first parts get one more when it does not divide evenly.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
        Examples.
    y : ndarray, shape (n, ...), optional
        Labels, which stay with their examples.
    num_partitions : int
        Between 1 and n.
    seed : int
        Of a generator of its own: nobody's global generator is touched.

    Returns
    -------
    list
        ``num_partitions`` pairs ``(x, y)``, or arrays ``x`` where there are no labels. Every example is in exactly one.

    Raises
    ------
    ConfigError
        If there are more or fewer labels than examples, or too few examples for so many parts.
    """
    if y is not None and len(y) != len(x):
        raise ConfigError("y", f"{len(y)} labels", f"{len(x)}, one for each example")
    if type(num_partitions) is not int or not 1 <= num_partitions <= len(x):
        raise ConfigError("num_partitions", num_partitions, f"an integer from 1 to {len(x)}, the number of examples")
    order = np.random.default_rng(seed).permutation(len(x))
    parts = np.array_split(order, num_partitions)
    if y is None:
        return [x[part] for part in parts]
    return [(x[part], y[part]) for part in parts]
