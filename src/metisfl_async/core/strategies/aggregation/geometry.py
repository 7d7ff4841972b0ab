"""Updates as points: the products of what they change, from which all distances follow, and sums of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.model import DTYPES, Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, blocks, write_rounded
from metisfl_async.core.strategies.aggregation.collecting import FEWEST, by_element, middle
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["distance", "fill", "fill_floats", "products", "squared_distances"]

#: BLAS multiplies larger matrices, and longer rows, in threads of its own; those and ours would wait for one another,
#: and a hundred updates took forty times as long.
SMALL, LONGEST = 2**18, 8192
ROUNDING = 1e-12  #: by which shares that add up to 1 may differ from it
TILE = 64  #: updates whose products are made at a time

Floats = NDArray[np.float64]  #: shape (n,)
Square = NDArray[np.float64]  #: shape (updates, updates)


def products(updates: Sequence[Model], base: Model) -> Square:
    """Multiply what the updates change of a model with one another; only tensors of floats count.

    Integers and booleans are counters and switches, of which no distance tells anything.

    Returns
    -------
    shape (updates, updates), float64
        ``<w_i - base, w_j - base>``. Infinite, or not a number, where that is too large.
    """
    count, total = len(updates), np.zeros((len(updates), len(updates)))
    for run in base.manifest.runs:
        if DTYPES[run.dtype].kind not in "iub":
            values, of_base = [run.of(update.buffer) for update in updates], run.of(base.buffer)
            parts: dict[int, Square] = {}  # by where they begin: the sum must not depend on which thread is first
            spread(partial(_multiply, values, of_base, parts, max(BLOCK // count, FEWEST)), len(of_base))
            for start in sorted(parts):
                total += parts[start]
    return total


def _multiply(values: Sequence[Array], base: Array, parts: dict[int, Square], length: int, part: slice) -> None:
    total, rooms = np.zeros((len(values), len(values))), np.empty((len(values) + 1, length))  # taken once: it is costly
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(part.start, part.stop, length):
            block = slice(start, min(start + length, part.stop))
            *changes, before = rooms[:, : block.stop - block.start]
            before[...] = base[block]
            for row, each in zip(changes, values, strict=True):
                row[...] = each[block]
                np.subtract(row, before, out=row)
            _add_products(total, rooms[:-1, : len(before)])
    parts[part.start] = total


def _add_products(total: Square, rows: Square) -> None:
    """Do ``total += rows @ rows.T``, in pieces for which BLAS starts no threads; rows of shape (updates, n)."""
    for top in range(0, len(rows), TILE):
        for left in range(0, top + 1, TILE):
            upper, lower = rows[top : top + TILE], rows[left : left + TILE]
            length = min(SMALL // (len(upper) * len(lower)), LONGEST)
            product = np.zeros((len(upper), len(lower)))
            for start in range(0, rows.shape[1], length):
                piece = slice(start, start + length)
                product += upper[:, piece] @ lower[:, piece].T
            total[top : top + TILE, left : left + TILE] += product
            if left < top:
                total[left : left + TILE, top : top + TILE] += product.T


def squared_distances(of: Square) -> Square:
    """Give ``|w_i - w_j| ** 2`` from the products; infinite where it is too large."""
    norms = np.diag(of)
    with np.errstate(invalid="ignore", over="ignore"):
        squares = norms[:, None] + norms[None, :] - 2.0 * of
    squares[~np.isfinite(squares)] = np.inf
    np.fill_diagonal(squares, 0.0)
    return np.maximum(squares, 0.0)  # rounding


def distance(of: Square, shares: Floats) -> Floats:
    """Give the distances of all updates from ``base + sum(shares_k * (w_k - base))``, from finite products."""
    along = of @ shares
    squares: Floats = np.diag(of) - 2.0 * along + shares @ along
    return np.sqrt(np.maximum(squares, 0.0))  # rounding


def fill(out: Model, updates: Sequence[Model], shares: Floats, base: Model) -> None:
    """Write ``base + sum(shares_k * (w_k - base))``; integers and booleans are the median of all updates.

    Updates with no share are not looked at, but for those.
    """
    fill_floats(out, updates, shares, base)
    by_element(updates, out, middle, floats=False)


def fill_floats(out: Model, updates: Sequence[Model], shares: Floats, base: Model) -> None:
    """Do that for the tensors of floats only."""
    if abs(1.0 - shares.sum()) <= ROUNDING:
        # The base has no part in it: as seen from the update with the largest share.
        base = updates[int(np.argmax(shares))]
    for run in out.manifest.runs:
        if DTYPES[run.dtype].kind not in "iub":
            target, before = run.of(out.buffer), run.of(base.buffer)
            terms = [(float(s), run.of(update.buffer)) for s, update in zip(shares, updates, strict=True) if s]
            spread(partial(_add, terms, before, target), len(target))


def _add(terms: Sequence[tuple[float, Array]], base: Array, out: Array, part: slice) -> None:
    room = np.empty((3, min(BLOCK, part.stop - part.start)))
    for block in blocks(part.stop, part.start):
        before, total, term = room[:, : block.stop - block.start]
        before[...] = base[block]
        total[...] = before
        for share, values in terms:
            term[...] = values[block]
            term -= before  # so that what does not differ from the base stays as it is, to the last bit
            term *= share
            total += term
        write_rounded(out[block], total)
