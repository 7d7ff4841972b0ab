"""A sum whose bits do not depend on the order of what is added, nor on how it is grouped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.codecs import EXACT
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array, Bytes, Manifest, Model
from metisfl_async.core.strategies.aggregation.arithmetic import Floats, Sum, blocks
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["MOST_ADDED", "ReproducibleSum"]

WORDS = 3  #: float64 numbers for each element, beside its unit
BITS = 33  #: of a product that a word takes; the other 20 of a float64 are for adding up
MOST_ADDED = 2**20  #: so that a word is exact
LEAST, LARGEST = -30, 29  #: units are 2.0 ** (BITS * k); for every product, k is between these
STEP = 2.0**-BITS  #: from one unit to the next
SCALE = 2.0**-64  #: of weights, so that no product is near the end of float64
ROUNDING = 1.5 * 2.0**52  #: times a unit: what is added to it and taken off again becomes a multiple of the unit


class ReproducibleSum(Sum):
    """A weighted sum of models that is the same bit for bit in any order, and in any grouping.

    Floats do not add up so, but whole numbers do. Each element has a unit, a power of ``2**33`` as small as its largest
    product allows, and three words, of that unit and the two below it. A product is cut into whole multiples of the
    three units, and each word adds up those of one unit, which is exact. When a larger product comes, the words move
    up, and the last is dropped: what stays is what would be there if the larger one had been the first. So a product
    is kept to ``2**-66`` of the largest one of its element, or better.

    It takes four times the memory of a `Sum`. The weights are added up in the same way, as one more element.

    References
    ----------
    Demmel, Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers 64(7), 2015.
    """

    codec = EXACT
    fast_bytes = 32 * 1024  # it may be of as many elements

    _block = 32 * 1024  # it goes over each block many times, with some arrays beside it

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._counts = _counts(manifest)

    def add(self, model: Model, weight: float) -> None:
        self._expect(1)
        self._add([*(run.of(model.buffer) for run in self.manifest.runs), np.ones(1)], weight * SCALE)

    def add_parts(self, parts: Sequence[Floats], weight: float) -> None:
        """Add another such sum.

        Raises
        ------
        ConfigError
            If its own weight is another one.
        """
        own = float(_rounded(_rows(parts[-1], 1), slice(0, 1))[0])
        if not math.isclose(own, weight, rel_tol=1e-9):
            raise ConfigError("the weight in a sum", own, f"that of its contributors, {weight:.16g}")
        self._expect(int(parts[-1][-1]))
        for index, part in enumerate(parts):
            spread(partial(self._join_slice, index, part), self._counts[index])
        self._is_zero = False

    def scale(self, factor: float, *, of_untrained: float | None = None) -> None:
        raise TypeError("a reproducible sum cannot be scaled: its units are fixed")

    @property
    def weight(self) -> float:
        return 0.0 if self._is_zero else float(self._value(len(self._counts) - 1, slice(0, 1))[0])

    def problem_of(self, parts: Sequence[Floats], most_added: int) -> str | None:
        if (problem := super().problem_of(parts, most_added)) is not None:
            return problem
        most = min(most_added, MOST_ADDED)
        if not 1 <= (added := float(parts[-1][-1])) <= most or not added.is_integer():
            return f"the sum is of {added:g} updates; allowed: a whole number from 1 to {most:,}"
        for part, count in zip(parts, self._counts, strict=True):
            rows = _rows(part, count)
            for block in blocks(count, size=self._block):
                if not _are_sound(rows[:, block], added):
                    return f"the sum holds numbers that {added:g} updates cannot add up to"
        return None

    @staticmethod
    def packed_manifest(manifest: Manifest) -> Manifest:
        lengths = enumerate(_lengths(_counts(manifest)))
        return Manifest.lay_out([(f"part {number}", "float64", (length,)) for number, length in lengths])

    def packed(self, manifest: Manifest, version: int, *, again: Bytes | None = None) -> Model:
        return Model.filled(manifest, self._parts, version=version, again=again)

    def unpack(self, packed: Model) -> None:
        self.load(packed.arrays())

    def _expect(self, count: int) -> None:
        """Count what comes.

        Raises
        ------
        ConfigError
            If that is too much; nothing was added then.
        """
        self._parts = self._parts or self._new_parts()
        added = 0 if self._is_zero else int(self._parts[-1][-1])
        if added + count > MOST_ADDED:
            raise ConfigError("reproducible", True, f"False where more than {MOST_ADDED:,} updates make a model")
        self._parts[-1][-1] = added + count

    def _add_slice(self, index: int, values: Array, weight: float, part: slice) -> None:
        rows = _rows(self._parts[index], self._counts[index])
        scratch = np.empty((3, min(self._block, part.stop - part.start)))
        for block in blocks(part.stop, part.start, self._block):
            product, cut, rounding = scratch[:, : block.stop - block.start]
            unit, *words = rows[:, block]
            product[...] = values[block]
            product *= weight
            if self._is_zero:
                unit[...] = _units_for(product)
            else:
                np.multiply(unit, 1 / STEP / 2, out=rounding)
                low = np.flatnonzero(np.abs(product, out=cut) >= rounding)
                _raise(rows[:, block], low, _units_for(product[low]))
            np.multiply(unit, ROUNDING, out=rounding)
            for number, word in enumerate(words):
                if number:
                    product -= cut
                    rounding *= STEP
                np.add(product, rounding, out=cut)
                cut -= rounding
                np.add(0.0 if self._is_zero else word, cut, out=word)

    def _join_slice(self, index: int, other: Floats, part: slice) -> None:
        all_mine, all_theirs = (_rows(each, self._counts[index]) for each in (self._parts[index], other))
        for block in blocks(part.stop, part.start, self._block):
            mine, theirs = all_mine[:, block], all_theirs[:, block]
            if self._is_zero:
                mine[...] = theirs
                continue
            low = np.flatnonzero(mine[0] < theirs[0])
            _raise(mine, low, theirs[0, low])
            if len(high := np.flatnonzero(theirs[0] < mine[0])):
                theirs = theirs.copy()
                _raise(theirs, high, mine[0, high])
            mine[1:] += theirs[1:]

    def _value(self, index: int, block: slice) -> Floats:
        return _rounded(_rows(self._parts[index], self._counts[index]), block)

    def _lengths(self) -> list[int]:
        return _lengths(self._counts)


def _counts(manifest: Manifest) -> list[int]:
    """Say how many elements each part is of: a run of the manifest, and the weights."""
    return [*(run.count for run in manifest.runs), 1]


def _lengths(counts: Sequence[int]) -> list[int]:
    """Say how long the parts are; in the last one is also how many models were added."""
    *lengths, last = ((1 + WORDS) * count for count in counts)
    return [*lengths, last + 1]


def _rows(part: Floats, count: int) -> Floats:
    """View a part as shape (1 + WORDS, count): the units, then the words, of the largest unit first."""
    return part[: (1 + WORDS) * count].reshape(1 + WORDS, count)


def _units_for(products: Floats) -> Floats:
    """Say which units are large enough: the products are less than half of the next one."""
    exponents = np.where(products == 0, BITS * LEAST, np.frexp(products)[1])
    units: Floats = np.ldexp(1.0, BITS * np.maximum(exponents // BITS, LEAST))
    return units


def _raise(rows: Floats, places: NDArray[np.intp], units: Floats) -> None:
    """Give some elements larger units: their words move up, and the last are dropped."""
    if not len(places):
        return
    steps = (np.frexp(units)[1] - np.frexp(rows[0, places])[1]) // BITS
    words = rows[1:, places]
    moved = np.zeros_like(words)
    for step in range(1, WORDS):
        here = steps == step
        moved[step:, here] = words[:-step, here]
    rows[0, places] = units
    rows[1:, places] = moved


def _rounded(rows: Floats, block: slice) -> Floats:
    """Round a block of a sum to float64, however its numbers are spread over the words."""
    first, *words = rows[:, block]
    total, rest = words[-1], np.zeros(len(first))
    for number in reversed(range(WORDS - 1)):
        unit = first * STEP**number
        carried = np.floor(total / unit + 0.5) * unit  # as near as can be, or small numbers would be lost
        rest += total - carried
        total = words[number] + carried
    rest += total
    rest /= SCALE
    return rest


def _are_sound(rows: Floats, added: float) -> bool:
    """Say whether so many additions can lead to a block of a sum, whose numbers are finite."""
    first, *words = rows
    mantissas, exponents = np.frexp(first)
    powers = exponents - 1
    if not ((mantissas == 0.5) & (powers % BITS == 0) & (powers >= BITS * LEAST) & (powers <= BITS * LARGEST)).all():
        return False
    with np.errstate(over="ignore"):
        multiples = [word / (first * STEP**number) for number, word in enumerate(words)]
    return all(((each == np.rint(each)) & (np.abs(each) <= added / STEP / 2)).all() for each in multiples)
