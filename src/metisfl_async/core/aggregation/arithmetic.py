"""Sums of models in float64, worked on in blocks that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.model import DTYPES, Array, Manifest, Model, allocate

__all__ = ["BLOCK", "CompensatedSum", "Sum", "blocks", "unfit", "write_rounded"]

BLOCK = 64 * 1024  #: elements worked on at a time
LARGEST = 1e288  #: times a weight of 2**53, times ten thousand learners, is still a float64

Floats = NDArray[np.float64]  #: shape (n,)


def unfit(update: Model) -> str | None:
    """Say which tensor of an update is not finite; None when all are.

    Float64 values beyond `LARGEST` count as not finite: their weighted sum would overflow.
    """
    for run in update.manifest.runs:
        if DTYPES[run.dtype].kind in "iub" or _is_finite(run.of(update.buffer)):
            continue
        for spec, values in zip(update.manifest.tensors, update.arrays(), strict=True):
            if spec.dtype == run.dtype and not _is_finite(values.reshape(-1)):
                return f"tensor {spec.name!r} holds a value that is not finite (NaN, infinite, or beyond {LARGEST})"
    return None


class Sum:
    """A weighted sum of models, float64 for every dtype: twice the memory of a float32 model.

    So the mean of float32 weights does not depend on the order of arrival beyond the last bit of the largest of them.
    The memory is taken with the first `add` and given back by `clear`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._parts: list[Floats] = []

    def add(self, model: Model, weight: float) -> None:
        """Do ``sum += weight * model``; both have one manifest."""
        if not self._parts:
            self._parts = [np.zeros(count, np.float64) for count in self._counts()]
        scratch = np.empty(BLOCK, np.float64)
        for index, values in enumerate(run.of(model.buffer) for run in self.manifest.runs):
            for block in blocks(len(values)):
                product = scratch[: block.stop - block.start]
                np.multiply(values[block], weight, out=product, dtype=np.float64)
                self._add(index, block, product)

    def _add(self, index: int, block: slice, product: Floats) -> None:
        self._parts[index][block] += product

    def scale(self, factor: float) -> None:
        """Do ``sum *= factor``."""
        for part in self._parts:
            np.multiply(part, factor, out=part)

    def divided_by(self, divisor: float, version: int) -> Model:
        """Make ``sum / divisor`` a model, each tensor in its own dtype.

        Integers are rounded to the nearest (ties to even), exact up to 2**53; booleans are a majority, True when the
        halves are equal.
        """
        model = Model(self.manifest, allocate(self.manifest.size_bytes), version)
        for index, out in enumerate(run.of(model.buffer) for run in self.manifest.runs):
            for block in blocks(len(out)):
                write_rounded(out[block], self._value(index, block) / divisor)
        model.buffer[self.manifest.padding] = 0
        return model

    def _value(self, index: int, block: slice) -> Floats:
        return self._parts[index][block]

    def clear(self) -> None:
        """Make it zero."""
        self._parts = []

    def _counts(self) -> list[int]:
        return [(run.stop - run.start) // DTYPES[run.dtype].itemsize for run in self.manifest.runs]


class CompensatedSum(Sum):
    """A sum that keeps what rounding loses in a second float64, so that what was added can be taken out again.

    Without that, one wild model that comes and goes would take the last digits of all the others with it.

    References
    ----------
    Knuth, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B: the error of a sum of two is a float.
    """

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._lost: list[Floats] = []

    def add(self, model: Model, weight: float) -> None:
        if not self._lost:
            self._lost = [np.zeros(count, np.float64) for count in self._counts()]
        super().add(model, weight)

    def _add(self, index: int, block: slice, product: Floats) -> None:
        before = self._parts[index][block]
        total = before + product
        arrived = total - before  # what of the product is in the total
        product -= arrived
        arrived -= total
        arrived += before  # before - (total - arrived), what of the sum before is not in the total
        self._lost[index][block] += product + arrived
        before[...] = total

    def _value(self, index: int, block: slice) -> Floats:
        value: Floats = self._parts[index][block] + self._lost[index][block]
        return value

    def clear(self) -> None:
        super().clear()
        self._lost = []


def blocks(count: int) -> Iterator[slice]:
    """Cut a range of elements into blocks."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def write_rounded(out: Array, values: Floats) -> None:
    """Write float64 values of shape (n,) in the dtype of `out`."""
    if out.dtype.kind == "b":
        np.greater_equal(values, 0.5, out=out)
    elif out.dtype.kind in "iu":
        limits = np.iinfo(out.dtype)
        # float64 cannot hold the largest 64-bit integers; the next smaller number it can hold is taken.
        highest = np.nextafter(float(limits.max), 0) if limits.bits == 64 else float(limits.max)
        out[...] = np.clip(np.rint(values), float(limits.min), highest)
    else:
        out[...] = values


def _is_finite(values: Array) -> bool:
    """Whether all are finite and, in float64, at most `LARGEST`; values of shape (n,)."""
    for block in blocks(len(values)):
        part = values[block]
        if part.dtype == np.float64:
            if not (np.abs(part) <= LARGEST).all():
                return False
        elif not np.isfinite(part).all():
            return False
    return True
