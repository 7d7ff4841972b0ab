"""A sum whose bits do not depend on the order of what is added, nor on how it is grouped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from metisfl_async.core.codecs import EXACT
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array, Bytes, Manifest, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, Floats, Sum, blocks
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["MOST_ADDED", "ReproducibleSum"]

WORDS = 3  #: float64 numbers for each element
BITS = 33  #: of a product that a word takes; the other 20 of a float64 are for adding up
MOST_ADDED = 2**20  #: so that a word is exact
LEAST_TOP, LARGEST_TOP = -30, 29  #: every product is between them, and what they need are float64 numbers
SCALE = 2.0**-64  #: of weights, so that no product is near the end of float64
ROUNDING = 1.5 * 2.0**52  #: times a unit: what is added to it and taken off again becomes a multiple of the unit


class ReproducibleSum(Sum):
    """A weighted sum of models that is the same bit for bit in any order, and in any grouping.

    Floats do not add up so, but whole numbers do. Each product is cut into whole multiples of three units, one
    ``2**33`` times the next. An element has a word for each unit, which adds them up exactly. Each block of `BLOCK`
    elements has units of its own, as small as its largest product allows. When a larger one comes, the words move up,
    and the last is dropped: what stays is what would be there if the larger one had been the first. So a product is
    kept to ``2**-67`` of the largest in its block, or better.

    It takes three times the memory of a `Sum`. The weights are added up in the same way, as one more element.

    References
    ----------
    Demmel, Nguyen, "Parallel Reproducible Summation", IEEE Transactions on Computers 64(7), 2015.
    """

    codec = EXACT

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._counts = [*(run.count for run in manifest.runs), 1]  # of elements, in each part

    def add(self, model: Model, weight: float) -> None:
        self._expect(1)
        self._add([*(run.of(model.buffer) for run in self.manifest.runs), np.ones(1)], weight * SCALE)

    def add_parts(self, parts: Sequence[Floats], weight: float) -> None:
        own = float(_rounded(parts[-1], 1, slice(0, 1))[0])
        if not math.isclose(own, weight, rel_tol=1e-9):
            raise ConfigError("the weight in a sum", own, f"that of its contributors, {weight:.16g}")
        self._expect(int(parts[-1][-1]))
        for index, part in enumerate(parts):
            spread(partial(self._join_slice, index, part), self._counts[index])
        self._is_zero = False

    @property
    def weight(self) -> float:
        return float(_rounded(self._parts[-1], 1, slice(0, 1))[0])

    def problem_of(self, parts: Sequence[Floats]) -> str | None:
        if (problem := super().problem_of(parts)) is not None:
            return problem
        for part, count in zip(parts, self._counts, strict=True):
            words, tops = _views(part, count)
            if not ((tops >= LEAST_TOP) & (tops <= LARGEST_TOP) & (tops == np.rint(tops))).all():
                return f"the sum has units that are none; allowed: whole numbers from {LEAST_TOP} to {LARGEST_TOP}"
            for block in blocks(count):
                top = int(tops[block.start // BLOCK])
                for number, word in enumerate(words[:, block]):
                    if (np.abs(word) > 2.0**53 * _unit(top - number)).any():
                        return "the sum holds a number that is too large for its unit"
        if (added := parts[-1][-1]) not in range(1, MOST_ADDED + 1):
            return f"the sum is of {added:g} updates; allowed: a whole number from 1 to {MOST_ADDED:,}"
        return None

    @staticmethod
    def packed_manifest(manifest: Manifest) -> Manifest:
        counts = [*(run.count for run in manifest.runs), 1]
        lengths = enumerate(_lengths(counts))
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
        words, tops = _views(self._parts[index], self._counts[index])
        products, cuts = np.empty((2, min(BLOCK, part.stop - part.start)))
        for block in blocks(part.stop, part.start):
            size = block.stop - block.start
            product, cut = products[:size], cuts[:size]
            product[...] = values[block]
            product *= weight
            top = self._lift(words[:, block], tops, block, _top_of(product))
            for number in range(WORDS):
                rounding = ROUNDING * _unit(top - number)
                np.add(product, rounding, out=cut)
                cut -= rounding
                if number < WORDS - 1:
                    product -= cut
                if self._is_zero:
                    words[number, block] = cut
                else:
                    words[number, block] += cut

    def _join_slice(self, index: int, other: Floats, part: slice) -> None:
        words, tops = _views(self._parts[index], self._counts[index])
        others, other_tops = _views(other, self._counts[index])
        for block in blocks(part.stop, part.start):
            other_top = int(other_tops[block.start // BLOCK])
            top = self._lift(words[:, block], tops, block, other_top)
            if self._is_zero:
                words[:, block] = others[:, block]
            else:
                below = top - other_top
                words[below:, block] += others[: max(WORDS - below, 0), block]

    def _lift(self, words: Floats, tops: Floats, block: slice, top: int) -> int:
        """Have the largest unit of a block be at least this; the words, shape (WORDS, n), move up. Give what it is."""
        place = block.start // BLOCK
        if self._is_zero:
            tops[place] = top
        elif (steps := top - int(tops[place])) > 0:
            for number in reversed(range(WORDS)):
                words[number] = words[number - steps] if number >= steps else 0.0
            tops[place] = top
        return int(tops[place])

    def _value(self, index: int, block: slice) -> Floats:
        return _rounded(self._parts[index], self._counts[index], block)

    def _lengths(self) -> list[int]:
        return _lengths(self._counts)


def _lengths(counts: Sequence[int]) -> list[int]:
    """Say how long parts of so many elements are; in the last one is also how many models were added."""
    *lengths, last = (_length(count) for count in counts)
    return [*lengths, last + 1]


def _length(count: int) -> int:
    return WORDS * count + -(-count // BLOCK)


def _views(part: Floats, count: int) -> tuple[Floats, Floats]:
    """Give the words of a part, shape (WORDS, count), the largest unit first, and which unit that is, by block."""
    return part[: WORDS * count].reshape(WORDS, count), part[WORDS * count : _length(count)]


def _rounded(part: Floats, count: int, block: slice) -> Floats:
    """Round a block of a sum to float64, however its numbers are spread over the words."""
    words, tops = _views(part, count)
    top = int(tops[block.start // BLOCK])
    total, rest = words[WORDS - 1, block], np.zeros(block.stop - block.start)
    for number in reversed(range(WORDS - 1)):
        unit = _unit(top - number)
        carried = np.floor(total / unit + 0.5) * unit  # as near as can be, or small numbers would be lost
        rest += total - carried
        total = words[number, block] + carried
    rest += total
    rest /= SCALE
    return rest


def _unit(number: int) -> float:
    return math.ldexp(1.0, BITS * number)


def _top_of(products: Floats) -> int:
    """Say which unit is the largest needed: the products are less than half of the next one."""
    largest = max(float(products.max()), -float(products.min()))
    _, exponent = math.frexp(largest or 2.0**-1074)
    return max(LEAST_TOP, -(-(exponent + 1) // BITS) - 1)
