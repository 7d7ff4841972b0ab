"""Sums of models in float64, worked on in blocks that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import NoModel
from metisfl_async.core.model import DTYPES, Array, Bytes, Manifest, Model, allocate
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["BLOCK", "CompensatedSum", "Floats", "Inspection", "Sum", "blocks", "unfit", "write_rounded"]

BLOCK = 64 * 1024  #: elements worked on at a time
MOST_RUNS = 256  #: of neighbours of one dtype that are looked at while a model arrives
_EXPONENTS = {DTYPES["float16"]: 0x7C00, DTYPES["bfloat16"]: 0x7F80}  # all of its bits are set in what is not finite
LARGEST = 1e288  #: times a weight of 2**53, times ten thousand learners, is still a float64

Floats = NDArray[np.float64]  #: shape (n,)


def unfit(update: Model, *, is_first: bool = False) -> str | None:
    """Say which tensor of an update is not finite; None when all are.

    Float64 values beyond `LARGEST` count as not finite: their weighted sum would overflow. First weights may be
    infinite where they are not trained, as a causal mask is.
    """
    for run in update.manifest.runs:
        if DTYPES[run.dtype].kind in "iub" or _is_finite(run.of(update.buffer)):
            continue
        may_be_infinite = update.manifest.untrained if is_first else ()
        for place, (spec, tensor) in enumerate(zip(update.manifest.tensors, update.arrays(), strict=True)):
            values = tensor.reshape(-1)
            if spec.dtype == run.dtype and place in may_be_infinite:
                values = values[~np.isinf(values)]
            if spec.dtype == run.dtype and not _is_finite(values):
                return f"tensor {spec.name!r} holds a value that is not finite (NaN, infinite, or beyond {LARGEST})"
    return None


class Inspection:
    """Looks whether a model's values are finite while it arrives, and its bytes are still in the processor's cache.

    Where dtypes take turns so often that looking would hold up the event loop, it does not look.
    """

    def __init__(self, model: Model) -> None:
        self._buffer, self._runs = model.buffer, model.manifest.runs
        self.is_finite = len(self._runs) <= MOST_RUNS  #: as `unfit` understands it; if not, `unfit` has to look
        self._run, self._seen = 0, 0  # the first run that is not seen to its end; bytes

    def advance(self, arrived_bytes: int) -> None:
        """Look at what has arrived since; an element of which a part is missing has its turn later."""
        while self.is_finite and self._run < len(self._runs):
            run = self._runs[self._run]
            dtype = DTYPES[run.dtype]
            start, stop = max(self._seen, run.start), min(arrived_bytes, run.stop)
            stop -= (stop - run.start) % dtype.itemsize
            if start < stop:
                self._seen = stop
                if dtype.kind not in "iub":
                    self.is_finite = _is_finite(self._buffer[start:stop].view(dtype))
            if stop < run.stop:
                return
            self._run += 1


class Sum:
    """A weighted sum of models, float64 for every dtype: twice the memory of a float32 model.

    So the mean of float32 weights does not depend on the order of arrival beyond the last bit of the largest of them.
    The memory is taken with the first `add`, and kept: asking for it anew takes as long as an addition.
    """

    codec: str = RAW  #: by which a header says how such a sum travels
    fast_bytes: int = 2**20  #: adding a model of so many bytes takes no longer than waking a thread does

    _block = 4 * BLOCK  # a long way through memory at one go: with a quarter of it, an addition takes a third longer

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._weight = 0.0
        self._parts: list[Floats] = []  # one for each run of the manifest
        self._is_zero = True  # whatever the parts hold

    def add(self, model: Model, weight: float) -> None:
        """Do ``sum += weight * model``; both have one manifest."""
        self._add([run.of(model.buffer) for run in self.manifest.runs], weight)
        self._weight += weight

    def add_parts(self, parts: Sequence[Floats], weight: float) -> None:
        """Add another sum, given by its `parts` and its weight."""
        self._add(parts, 1.0)
        self._weight += weight

    @property
    def weight(self) -> float:
        """What the weights of all that was added come to."""
        return self._weight

    def _add(self, parts: Sequence[Array], weight: float) -> None:
        if not self._parts:
            self._parts = self._new_parts()
        for index, values in enumerate(parts):
            spread(partial(self._add_slice, index, values, weight), len(values))
        self._is_zero = False

    def _add_slice(self, index: int, values: Array, weight: float, part: slice) -> None:
        total = self._parts[index]
        scratch = np.empty(min(self._block, part.stop - part.start), np.float64)
        for block in blocks(part.stop, part.start, self._block):
            product = total[block] if self._is_zero else scratch[: block.stop - block.start]
            product[...] = values[block]  # NumPy casts and multiplies faster one after the other than in one call
            product *= weight
            if not self._is_zero:
                self._add_block(index, block, product)

    def _add_block(self, index: int, block: slice, product: Floats) -> None:
        total = self._parts[index][block]
        total += product

    def scale(self, factor: float, *, of_untrained: float | None = None) -> None:
        """Do ``sum *= factor``, perhaps with a factor of its own for the tensors that are not trained."""
        if not self._is_zero:
            for total in self._parts:
                spread(partial(_multiply, total, factor), len(total))
            if of_untrained is not None:
                for run, part in self.manifest.untrained_parts:
                    _multiply(self._parts[run], of_untrained / factor, part)

    def divided_by(self, divisor: float, version: int) -> Model:
        """Make ``sum / divisor`` a model, each tensor in its own dtype.

        Integers are rounded to the nearest (ties to even), exact up to 2**53; booleans are a majority, True when the
        halves are equal.
        """
        assert not self._is_zero, "nothing was added"
        model = Model(self.manifest, allocate(self.manifest.size_bytes), version)
        for index, out in enumerate(run.of(model.buffer) for run in self.manifest.runs):
            spread(partial(self._divide_slice, index, out, divisor), len(out))
        model.buffer[self.manifest.padding] = 0
        return model

    def _divide_slice(self, index: int, out: Array, divisor: float, part: slice) -> None:
        for block in blocks(part.stop, part.start):
            write_rounded(out[block], self._value(index, block) / divisor)

    def _value(self, index: int, block: slice) -> Floats:
        return self._parts[index][block]

    def parts(self) -> list[Floats]:
        """Give what it holds, one array for each run of the manifest; they change with the next `add`."""
        return self._parts

    def problem_of(self, parts: Sequence[Floats], most_added: int) -> str | None:
        """Say what is wrong with parts that came from elsewhere, of at most so many updates; None if nothing is."""
        shapes, wanted = [part.shape for part in parts], [(length,) for length in self._lengths()]
        if shapes != wanted:
            return f"the sum has parts of shapes {shapes}; those of the global model have {wanted}"
        if not all(np.isfinite(part[block]).all() for part in parts for block in blocks(len(part))):
            return "the sum holds a value that is not finite"
        return None

    @staticmethod
    def packed_manifest(manifest: Manifest) -> Manifest:
        """Lay out a sum of such models as a model of its own: here the same tensors, in float64."""
        return Manifest.lay_out([(spec.name, "float64", spec.shape) for spec in manifest.tensors])

    def packed(self, manifest: Manifest, version: int, *, again: Bytes | None = None) -> Model:
        """Copy the parts into one buffer, as a `packed_manifest` lays it out."""
        places = zip(self.manifest.tensors, self.manifest.parts, strict=True)
        tensors = [self._parts[number][place].reshape(spec.shape) for spec, (number, place) in places]
        return Model.filled(manifest, tensors, version=version, again=again)

    def unpack(self, packed: Model) -> None:
        """Take up what `packed` gave, in which the weight is not said."""
        parts = [np.zeros(length) for length in self._lengths()]  # there are gaps between tensors
        for (number, place), tensor in zip(self.manifest.parts, packed.arrays(), strict=True):
            parts[number][place] = tensor.reshape(-1)
        self._parts, self._is_zero = parts, False

    def load(self, parts: Sequence[Floats]) -> None:
        """Take up what `parts` gave."""
        self._parts, self._is_zero = [part.copy() for part in parts], False

    def clear(self) -> None:
        """Make it zero."""
        self._is_zero, self._weight = True, 0.0

    def _lengths(self) -> list[int]:
        return [run.count for run in self.manifest.runs]

    def _new_parts(self) -> list[Floats]:
        return [np.empty(length) for length in self._lengths()]


class CompensatedSum(Sum):
    """A sum that keeps what rounding loses in a second float64, so that what was added can be taken out again.

    Without that, one wild model that comes and goes would take the last digits of all the others with it.

    References
    ----------
    Knuth, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B: the error of a sum of two is a float.
    """

    _block = BLOCK  # it goes over each block many times

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._lost: list[Floats] = []

    def _add(self, parts: Sequence[Array], weight: float) -> None:
        if self._is_zero:
            self._lost = self._lost or self._new_parts()
            for lost in self._lost:
                lost.fill(0)
        super()._add(parts, weight)

    def _add_block(self, index: int, block: slice, product: Floats) -> None:
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


def blocks(stop: int, start: int = 0, size: int = BLOCK) -> Iterator[slice]:
    """Cut a range of elements into blocks."""
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _multiply(values: Floats, factor: float, part: slice) -> None:
    with np.errstate(over="ignore"):  # a model that is not finite is not published
        values[part] *= factor


def write_rounded(out: Array, values: Floats) -> None:
    """Write float64 values of shape (n,) in the dtype of `out`; what is too large for a float becomes infinite.

    Raises
    ------
    NoModel
        If integers or booleans are to be made of what is not a number.
    """
    if out.dtype.kind in "iub" and np.isnan(values).any():
        raise NoModel(f"a tensor of {out.dtype.name} would hold what is not a number")
    if out.dtype.kind == "b":
        np.greater_equal(values, 0.5, out=out)
    elif out.dtype.kind in "iu":
        limits = np.iinfo(out.dtype)
        # float64 cannot hold the largest 64-bit integers; the next smaller number it can hold is taken.
        highest = np.nextafter(float(limits.max), 0) if limits.bits == 64 else float(limits.max)
        out[...] = np.clip(np.rint(values), float(limits.min), highest)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = values


def _is_finite(values: Array) -> bool:
    """Say whether all are finite and, in float64, at most `LARGEST`; values of shape (n,)."""
    for block in blocks(len(values)):
        part = values[block]
        if part.dtype == np.float64:
            if not (np.abs(part) <= LARGEST).all():
                return False
        elif (exponent := _EXPONENTS.get(part.dtype)) is not None:  # seven times faster than NumPy's isfinite
            if ((part.view(np.uint16) & exponent) == exponent).any():
                return False
        elif not np.isfinite(part).all():
            return False
    return True
