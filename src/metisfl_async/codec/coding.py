"""Values of a tensor in fewer bytes than they have: what comes back is near them, not equal to them.

A coding turns float32 values into arrays of a known length, its parts, and gives them back block by block. It knows
nothing of models; `coded` does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.codecs import BF16, INT8, share_of
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, blocks

__all__ = ["SCALED", "Bf16", "Coding", "Int8", "TopK", "coding_of"]

SCALED = 1024  #: neighbours that have one scale
MOST_INDEXED = 2**32  #: values of a tensor that 32 bits can number

_LARGEST = np.float32(3.3895313892515355e38)  # of bfloat16
assert BLOCK % SCALED == 0

Values = NDArray[np.float32]  #: shape (n,)


class Coding(ABC):
    """One way to code the values of a tensor; those of one kind are equal."""

    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")  #: tensors that are coded
    has_rest: bool = True  #: whether what is lost is worth keeping, and is added to the values of the next time

    def codes(self, dtype: str, count: int) -> bool:
        """Say whether a tensor of so many values is coded; if not, it travels as it is."""
        return dtype in self.dtypes

    @abstractmethod
    def parts(self, count: int) -> list[tuple[str, int]]:
        """Give dtype and length of what so many values become."""

    @abstractmethod
    def encode(self, values: Values, parts: Sequence[Array]) -> None:
        """Write values, shape (n,), into their parts. Of what is not finite, something that is not finite remains."""

    @abstractmethod
    def decode(self, parts: Sequence[Array], block: slice) -> Values:
        """Give the values of a block, which begins at a multiple of `BLOCK`."""

    def check(self, parts: Sequence[Array], count: int) -> str | None:
        """Say what is wrong with parts that somebody else has made; None if nothing is."""
        return None


@dataclass(frozen=True)
class Bf16(Coding):
    """Each value rounded to bfloat16, the upper half of a float32; a number beyond its range becomes its largest."""

    dtypes = ("float32", "float64")  # others are no larger
    has_rest = False

    def parts(self, count: int) -> list[tuple[str, int]]:
        return [("bfloat16", count)]

    def encode(self, values: Values, parts: Sequence[Array]) -> None:
        for block in blocks(len(values)):
            part = values[block]
            parts[0][block] = np.where(np.isinf(part), part, np.clip(part, -_LARGEST, _LARGEST))

    def decode(self, parts: Sequence[Array], block: slice) -> Values:
        return parts[0][block].astype(np.float32)


@dataclass(frozen=True)
class Int8(Coding):
    """Each value a multiple, from -127 to 127, of a scale that `SCALED` neighbours share: a byte for each, and 0.4 %.

    References
    ----------
    Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and
    Encoding", arXiv:1610.02132, its buckets, here rounded to the nearest.
    """

    def parts(self, count: int) -> list[tuple[str, int]]:
        return [("int8", count), ("float32", -(-count // SCALED))]

    def encode(self, values: Values, parts: Sequence[Array]) -> None:
        multiples, scales = parts
        for block in blocks(len(values)):
            part = values[block]
            starts = np.arange(0, len(part), SCALED)
            scale: Values = np.maximum.reduceat(np.abs(part), starts)
            scale /= 127
            scales[block.start // SCALED :][: len(scale)] = scale
            scale[scale == 0] = 1
            with np.errstate(invalid="ignore"):  # the scale says that they are not finite
                exact = np.divide(part, _spread(scale, len(part)))
                multiples[block] = np.clip(np.rint(exact), -127, 127)

    def decode(self, parts: Sequence[Array], block: slice) -> Values:
        multiples, scales = parts
        part = multiples[block].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever wrote the scale may have meant it
            part *= _spread(scales[block.start // SCALED :], len(part))
        return part


@dataclass(frozen=True)
class TopK(Coding):
    """The largest values of a tensor, a share of them, each with its place; all others are zero.

    References
    ----------
    Aji, Heafield, "Sparse Communication for Distributed Gradient Descent", arXiv:1704.05021.
    """

    share: float

    def codes(self, dtype: str, count: int) -> bool:
        return super().codes(dtype, count) and count <= MOST_INDEXED

    def parts(self, count: int) -> list[tuple[str, int]]:
        most = math.ceil(self.share * count)
        return [("uint32", most), ("float32", most)]

    def encode(self, values: Values, parts: Sequence[Array]) -> None:
        places, kept = parts
        if not (most := len(places)):
            return
        magnitudes = np.abs(values)
        least = np.partition(magnitudes, len(values) - most)[-most]
        above = np.flatnonzero(~(magnitudes <= least))[:most]  # what is not a number is above all
        equal = np.flatnonzero(magnitudes == least)[: most - len(above)]
        places[...] = np.sort(np.concatenate((above, equal)))
        kept[...] = values[places]

    def decode(self, parts: Sequence[Array], block: slice) -> Values:
        places, kept = parts
        values = np.zeros(block.stop - block.start, np.float32)
        here = slice(*np.searchsorted(places, (block.start, block.stop)))
        values[places[here] - block.start] = kept[here]
        return values

    def check(self, parts: Sequence[Array], count: int) -> str | None:
        places = parts[0]
        if (places[1:] <= places[:-1]).any() or (len(places) and places[-1] >= count):
            return f"its places do not grow, or are beyond its {count} values"
        return None


def coding_of(codec: str) -> Coding | None:
    """Make the coding of this name; None for "raw", and for what is not known."""
    if codec == BF16:
        return Bf16()
    if codec == INT8:
        return Int8()
    return None if (share := share_of(codec)) is None else TopK(share)


def _spread(scales: Values, count: int) -> Values:
    """Give each value the scale of its neighbours."""
    return np.repeat(scales[: -(-count // SCALED)], SCALED)[:count]
