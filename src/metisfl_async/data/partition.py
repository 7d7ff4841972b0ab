"""Cutting one data set into the parts that learners hold, evenly or in the ways in which real sites differ.

Every function gives each example to exactly one part, shuffles with a generator of its own, and touches nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array

__all__ = ["dirichlet_partition", "iid_partition", "label_partition", "quantity_partition"]

Indices: TypeAlias = NDArray[np.intp]
TRIES = 1000  #: draws until every part has enough examples


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
    _check(x, y, num_partitions)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(x)), num_partitions)
    if y is None:
        return [x[part] for part in parts]
    return _cut(x, y, parts)


def label_partition(
    x: Array, y: Array, *, num_partitions: int, classes_per_partition: int = 2, seed: int = 1990
) -> list[tuple[Array, Array]]:
    """Give each part examples of only so many classes; a class that several parts have is split evenly among them.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
    y : ndarray, shape (n,)
        Class labels.
    num_partitions : int
        Between 1 and n.
    classes_per_partition : int
        At most the number of classes; times `num_partitions` at least that, so that no class is left over.
    seed : int
        Draws which classes go together, and which of their examples.

    Returns
    -------
    list of (x, y)

    Raises
    ------
    ConfigError
        If the numbers do not fit, or a class has fewer examples than there are parts to have it.

    References
    ----------
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", arXiv:1602.05629, section 3, the pathological non-IID partition.
    """
    _check(x, y, num_partitions)
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(y))
    least = -(-len(classes) // num_partitions)
    if type(classes_per_partition) is not int or not least <= classes_per_partition <= len(classes):
        allowed = f"an integer from {least} to {len(classes)}, for {len(classes)} classes in {num_partitions} parts"
        raise ConfigError("classes_per_partition", classes_per_partition, allowed)
    # Slots go round the classes, so neighbouring ones differ, and every class has its turn.
    slots = np.arange(num_partitions * classes_per_partition) % len(classes)
    parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
    for number, label in enumerate(classes):
        owners = np.flatnonzero(slots == number) // classes_per_partition
        examples = rng.permutation(np.flatnonzero(y == label))
        if len(examples) < len(owners):
            allowed = f"at least {len(owners)} examples of it: so many parts have this class"
            raise ConfigError(f"y, class {label!r}", f"{len(examples)} examples", allowed)
        for owner, share in zip(owners, np.array_split(examples, len(owners)), strict=True):
            parts[owner].append(share)
    return _cut(x, y, [rng.permutation(np.concatenate(part)) for part in parts])


def dirichlet_partition(
    x: Array, y: Array, *, num_partitions: int, alpha: float = 0.5, min_examples: int = 1, seed: int = 1990
) -> list[tuple[Array, Array]]:
    """Deal out each class in random shares, the more uneven the smaller `alpha` is.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
    y : ndarray, shape (n,)
        Class labels.
    num_partitions : int
        Between 1 and n.
    alpha : float
        > 0, the concentration of the Dirichlet distribution: 100 is nearly even, 0.1 leaves most parts few classes.
    min_examples : int
        Every part gets at least so many; shares are drawn anew until it is so.
    seed : int

    Returns
    -------
    list of (x, y)

    Raises
    ------
    ConfigError
        If the numbers do not fit, or no draw of a thousand gives every part `min_examples`.

    References
    ----------
    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    arXiv:1909.06335.
    """
    _check(x, y, num_partitions)
    _check_skew(alpha, min_examples, len(x) // num_partitions)
    rng = np.random.default_rng(seed)
    for _ in range(TRIES):
        parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
        for label in np.unique(y):
            examples = rng.permutation(np.flatnonzero(y == label))
            shares = np.cumsum(rng.dirichlet(np.full(num_partitions, alpha)))[:-1]
            for part, taken in zip(parts, np.split(examples, (shares * len(examples)).astype(int)), strict=True):
                part.append(taken)
        whole = [np.concatenate(part) for part in parts]
        if min(map(len, whole)) >= min_examples:
            return _cut(x, y, [rng.permutation(part) for part in whole])
    raise ConfigError(
        "min_examples", min_examples, f"fewer, or a larger alpha than {alpha}: {TRIES} draws left a part with less"
    )


def quantity_partition(
    x: Array, y: Array, *, num_partitions: int, alpha: float = 0.5, min_examples: int = 1, seed: int = 1990
) -> list[tuple[Array, Array]]:
    """Deal out shuffled examples in parts of random sizes, the more uneven the smaller `alpha` is.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
    y : ndarray, shape (n, ...)
        Labels, which stay with their examples.
    num_partitions : int
        Between 1 and n.
    alpha : float
        > 0, the concentration of the Dirichlet distribution of the sizes.
    min_examples : int
        Every part gets at least so many; the rest is dealt out unevenly.
    seed : int

    Returns
    -------
    list of (x, y)

    Raises
    ------
    ConfigError
        If the numbers do not fit.

    References
    ----------
    Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos: An Experimental Study", arXiv:2102.02079, quantity
    skew.
    """
    _check(x, y, num_partitions)
    _check_skew(alpha, min_examples, len(x) // num_partitions)
    rng = np.random.default_rng(seed)
    spare = len(x) - num_partitions * min_examples
    shares = np.cumsum(rng.dirichlet(np.full(num_partitions, alpha)))[:-1]
    ends = (shares * spare).astype(int) + min_examples * np.arange(1, num_partitions)
    return _cut(x, y, np.split(rng.permutation(len(x)), ends))


def _check(x: Array, y: Array | None, num_partitions: int) -> None:
    if y is not None and len(y) != len(x):
        raise ConfigError("y", f"{len(y)} labels", f"{len(x)}, one for each example")
    if type(num_partitions) is not int or not 1 <= num_partitions <= len(x):
        raise ConfigError("num_partitions", num_partitions, f"an integer from 1 to {len(x)}, the number of examples")


def _check_skew(alpha: float, min_examples: int, most: int) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ConfigError("alpha", alpha, "a finite number > 0")
    if type(min_examples) is not int or not 1 <= min_examples <= most:
        raise ConfigError("min_examples", min_examples, f"an integer from 1 to {most}")


def _cut(x: Array, y: Array, parts: Sequence[Indices]) -> list[tuple[Array, Array]]:
    return [(x[part], y[part]) for part in parts]
