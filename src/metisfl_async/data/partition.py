"""Cutting one data set into the parts that learners hold, evenly or in the ways in which real sites differ.

Every function gives each example to exactly one part, shuffles with a generator of its own, and touches nobody's. It
returns ``x_chunks, y_chunks``, as MetisFL's does, or one list where there is no `y` apart from the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array
from metisfl_async.data.rows import Indices, class_labels, column_of, count_of, taken

__all__ = ["dirichlet_partition", "iid_partition", "label_partition", "quantity_partition"]

X = TypeVar("X")
Y = TypeVar("Y")
Chunks: TypeAlias = "tuple[list[X], list[Y]] | list[X]"
TRIES = 1000  #: draws until every part has enough examples


@overload
def iid_partition(x: X, y: None = None, *, num_partitions: int, seed: int = 1990) -> list[X]: ...


@overload
def iid_partition(x: X, y: Y, *, num_partitions: int, seed: int = 1990) -> tuple[list[X], list[Y]]: ...


def iid_partition(x: X, y: Y | None = None, *, num_partitions: int, seed: int = 1990) -> Chunks[X, Y]:
    """Shuffle examples and deal them out in equal parts; the first parts get one more when it does not divide evenly.

    ::

        x_chunks, y_chunks = iid_partition(x_train, y_train, num_partitions=3, seed=1990)

    Parameters
    ----------
    x : array, tensor, list, pandas Series or frame, or Hugging Face dataset
        Examples: rows, as many as it has in its first dimension.
    y : the same, optional
        Labels or targets, which stay with their examples.
    num_partitions : int
        Between 1 and n, the number of examples.
    seed : int
        Of a generator of its own: nobody's global generator is touched.

    Returns
    -------
    x_chunks, y_chunks : lists
        ``num_partitions`` parts of each, of the same kind as `x` and `y` (of TensorFlow's tensors, arrays). Without
        `y`, the list ``x_chunks`` alone. Every example is in exactly one part.

    Raises
    ------
    ConfigError
        If there are more or fewer labels than examples, too few examples for so many parts, or `x` or `y` has no rows.
    """
    count = _count(x, y)
    _check_parts(num_partitions, count)
    parts = np.array_split(np.random.default_rng(seed).permutation(count), num_partitions)
    return _cut(x, y, parts)


@overload
def label_partition(  # type: ignore[overload-overlap]
    x: X, y: str, *, num_partitions: int, classes_per_partition: int = 2, seed: int = 1990
) -> list[X]: ...


@overload
def label_partition(
    x: X, y: Y, *, num_partitions: int, classes_per_partition: int = 2, seed: int = 1990
) -> tuple[list[X], list[Y]]: ...


def label_partition(
    x: X, y: Y | str, *, num_partitions: int, classes_per_partition: int = 2, seed: int = 1990
) -> Chunks[X, Y]:
    """Give each part examples of only so many classes; a class that several parts have is split evenly among them.

    Parameters
    ----------
    x : array, tensor, list, pandas Series or frame, or Hugging Face dataset
        n examples.
    y : the same, or str
        n class labels; or the name of the column of `x` that has them.
    num_partitions : int
        Between 1 and n.
    classes_per_partition : int
        At most the number of classes; times `num_partitions` at least that, so that no class is left over.
    seed : int
        Draws which classes go together, and which of their examples.

    Returns
    -------
    x_chunks, y_chunks : lists
        As of `iid_partition`; where `y` is the name of a column, the list ``x_chunks`` alone.

    Raises
    ------
    ConfigError
        If the numbers do not fit, or a class has fewer examples than there are parts to have it.

    References
    ----------
    McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", arXiv:1602.05629, section 3, the pathological non-IID partition.
    """
    _check_parts(num_partitions, _count(x))
    labels, classes = _labels(x, y)
    rng = np.random.default_rng(seed)
    classes = rng.permutation(classes)
    least = -(-len(classes) // num_partitions)
    if type(classes_per_partition) is not int or not least <= classes_per_partition <= len(classes):
        allowed = f"an integer from {least} to {len(classes)}, for {len(classes)} classes in {num_partitions} parts"
        raise ConfigError("classes_per_partition", classes_per_partition, allowed)
    # Slots go round the classes, so neighbouring ones differ, and every class has its turn.
    slots = np.arange(num_partitions * classes_per_partition) % len(classes)
    parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
    for number, label in enumerate(classes):
        owners = np.flatnonzero(slots == number) // classes_per_partition
        examples = rng.permutation(np.flatnonzero(labels == label))
        if len(examples) < len(owners):
            allowed = f"at least {len(owners)} examples of it: so many parts have this class"
            raise ConfigError(f"y, class {label!r}", f"{len(examples)} examples", allowed)
        for owner, share in zip(owners, np.array_split(examples, len(owners)), strict=True):
            parts[owner].append(share)
    return _cut(x, y, [rng.permutation(np.concatenate(part)) for part in parts])


@overload
def dirichlet_partition(  # type: ignore[overload-overlap]
    x: X,
    y: str,
    *,
    num_partitions: int,
    alpha: float = 0.5,
    min_examples: int = 1,
    self_balancing: bool = False,
    seed: int = 1990,
) -> list[X]: ...


@overload
def dirichlet_partition(
    x: X,
    y: Y,
    *,
    num_partitions: int,
    alpha: float = 0.5,
    min_examples: int = 1,
    self_balancing: bool = False,
    seed: int = 1990,
) -> tuple[list[X], list[Y]]: ...


def dirichlet_partition(
    x: X,
    y: Y | str,
    *,
    num_partitions: int,
    alpha: float = 0.5,
    min_examples: int = 1,
    self_balancing: bool = False,
    seed: int = 1990,
) -> Chunks[X, Y]:
    """Deal out each class in random shares, the more uneven the smaller `alpha` is.

    Parameters
    ----------
    x : array, tensor, list, pandas Series or frame, or Hugging Face dataset
        n examples.
    y : the same, or str
        n class labels; or the name of the column of `x` that has them.
    num_partitions : int
        Between 1 and n.
    alpha : float
        > 0, the concentration of the Dirichlet distribution: 100 is nearly even, 0.1 leaves most parts few classes.
    min_examples : int
        Every part gets at least so many; shares are drawn anew until it is so. With 0, parts may be empty, and there
        may be more of them than examples.
    self_balancing : bool
        A part that has its n / `num_partitions` examples gets none of the classes that are still to be dealt out, so
        that sizes differ less; classes come in random order.
    seed : int

    Returns
    -------
    x_chunks, y_chunks : lists
        As of `iid_partition`; where `y` is the name of a column, the list ``x_chunks`` alone.

    Raises
    ------
    ConfigError
        If the numbers do not fit, or no draw of a thousand gives every part `min_examples`.

    References
    ----------
    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    arXiv:1909.06335; Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos: An Experimental Study",
    arXiv:2102.02079, of which the balancing is.
    """
    count = _count(x)
    _check_skew(alpha, min_examples, num_partitions, count)
    labels, classes = _labels(x, y)
    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels == label) for label in classes]
    for _ in range(TRIES):
        parts: list[list[Indices]] = [[] for _ in range(num_partitions)]
        sizes = np.zeros(num_partitions)
        for number in rng.permutation(len(classes)) if self_balancing else range(len(classes)):
            examples = rng.permutation(of_class[number])
            shares = rng.dirichlet(np.full(num_partitions, alpha))
            if self_balancing:
                shares = _without_full(shares, sizes < count / num_partitions)
            ends = (np.cumsum(shares)[:-1] * len(examples)).astype(int)
            for part, share in zip(parts, np.split(examples, ends), strict=True):
                part.append(share)
            sizes += np.diff(ends, prepend=0, append=len(examples))
        if sizes.min() >= min_examples:
            return _cut(x, y, [rng.permutation(np.concatenate(part)) for part in parts])
    raise ConfigError(
        "min_examples",
        min_examples,
        f"fewer (0: parts may be empty), or a larger alpha than {alpha}: {TRIES} draws left a part with less",
    )


@overload
def quantity_partition(
    x: X, y: None = None, *, num_partitions: int, alpha: float = 0.5, min_examples: int = 1, seed: int = 1990
) -> list[X]: ...


@overload
def quantity_partition(
    x: X, y: Y, *, num_partitions: int, alpha: float = 0.5, min_examples: int = 1, seed: int = 1990
) -> tuple[list[X], list[Y]]: ...


def quantity_partition(
    x: X, y: Y | None = None, *, num_partitions: int, alpha: float = 0.5, min_examples: int = 1, seed: int = 1990
) -> Chunks[X, Y]:
    """Deal out shuffled examples in parts of random sizes, the more uneven the smaller `alpha` is.

    Parameters
    ----------
    x : array, tensor, list, pandas Series or frame, or Hugging Face dataset
        n examples.
    y : the same, optional
        Labels or targets, which stay with their examples.
    num_partitions : int
        Between 1 and n.
    alpha : float
        > 0, the concentration of the Dirichlet distribution of the sizes.
    min_examples : int
        Every part gets at least so many; the rest is dealt out unevenly. With 0, parts may be empty, and there may be
        more of them than examples.
    seed : int

    Returns
    -------
    x_chunks, y_chunks : lists
        As of `iid_partition`; where `y` is the name of a column, the list ``x_chunks`` alone.

    Raises
    ------
    ConfigError
        If the numbers do not fit.

    References
    ----------
    Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos: An Experimental Study", arXiv:2102.02079, quantity
    skew.
    """
    count = _count(x, y)
    _check_skew(alpha, min_examples, num_partitions, count)
    rng = np.random.default_rng(seed)
    spare = count - num_partitions * min_examples
    shares = np.cumsum(rng.dirichlet(np.full(num_partitions, alpha)))[:-1]
    ends = (shares * spare).astype(int) + min_examples * np.arange(1, num_partitions)
    return _cut(x, y, np.split(rng.permutation(count), ends))


def _count(x: object, y: object = None) -> int:
    """Count the examples; there must be as many labels."""
    count = count_of("x", x)
    if y is not None and (labels := count_of("y", y)) != count:
        raise ConfigError("y", f"{labels} labels", f"{count}, one for each example")
    return count


def _labels(x: object, y: object) -> tuple[Array, Array]:
    """Give the label of each example, and the classes."""
    y = column_of(x, y) if isinstance(y, str) else y
    _count(x, y)
    return class_labels(y)


def _check_parts(num_partitions: int, most: int) -> None:
    if type(num_partitions) is not int or not 1 <= num_partitions <= most:
        raise ConfigError("num_partitions", num_partitions, f"an integer from 1 to {most}, the number of examples")


def _check_skew(alpha: float, min_examples: int, num_partitions: int, count: int) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ConfigError("alpha", alpha, "a finite number > 0")
    if min_examples == 0 and type(num_partitions) is int:
        integer("num_partitions", num_partitions, 1)
    else:
        _check_parts(num_partitions, count)
    integer("min_examples", min_examples, 0, count // num_partitions)


def _without_full(shares: NDArray[np.float64], has_room: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give what would go to parts that are full to the others; all alike, where those would have nothing at all."""
    shares = np.where(has_room, shares, 0.0)
    shares = shares if shares.sum() > 0 else has_room.astype(np.float64)
    return shares / float(shares.sum())


def _cut(x: X, y: Y | str | None, parts: Sequence[Indices]) -> Chunks[X, Y]:
    x_chunks = [taken(x, rows) for rows in parts]
    return x_chunks if y is None or isinstance(y, str) else (x_chunks, [taken(y, rows) for rows in parts])
