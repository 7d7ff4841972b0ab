"""A model: a manifest of its tensors and one flat buffer that holds them all.

One flat buffer makes the rest short: a data frame is a slice of it, folding an update is one pass over it however many
tensors there are, and a checkpoint is one write.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.errors import ConfigError, brief

__all__ = [
    "ALIGNMENT",
    "DTYPES",
    "Array",
    "Bytes",
    "Manifest",
    "Model",
    "Run",
    "TensorSpec",
    "align",
    "allocate",
    "is_alone",
]

ALIGNMENT = 64  #: bytes; every tensor starts at a multiple of it, a cache line

Array = NDArray[Any]  #: an array of any of `DTYPES`
Bytes = NDArray[np.uint8]  #: shape (n,)

#: The dtypes a model may have, by the name they have on the wire. Always little-endian.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def align(offset: int) -> int:
    """Round `offset` up to the next multiple of `ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor's place in the flat buffer."""

    name: str
    dtype: str  #: a key of `DTYPES`
    shape: tuple[int, ...]
    offset: int  #: bytes from the start of the buffer

    @property
    def count(self) -> int:
        """Number of elements; Python integers, so that a lying shape cannot overflow."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.count * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tensors of one dtype, together with the padding between them: what arithmetic works on."""

    dtype: str
    start: int  #: bytes
    stop: int  #: bytes

    @property
    def count(self) -> int:
        """Number of elements, those of the padding among them."""
        return (self.stop - self.start) // DTYPES[self.dtype].itemsize

    def of(self, buffer: Bytes) -> Array:
        """View this part of `buffer` as one array of shape (n,)."""
        return buffer[self.start : self.stop].view(DTYPES[self.dtype])


@dataclass(frozen=True)
class Manifest:
    """Where each tensor lies. Two models can be averaged when their manifests are equal."""

    tensors: tuple[TensorSpec, ...]
    untrained: tuple[int, ...] = field(default=(), compare=False)  #: tensors, by number, that no optimizer may step
    size_bytes: int = field(init=False)  #: of the flat buffer

    def __post_init__(self) -> None:
        last = self.tensors[-1] if self.tensors else None
        object.__setattr__(self, "size_bytes", last.offset + last.size_bytes if last else 0)

    @classmethod
    def lay_out(cls, tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> Manifest:
        """Place (name, dtype, shape) one after another, each at the next multiple of `ALIGNMENT`."""
        specs: list[TensorSpec] = []
        end = 0
        for name, dtype, shape in tensors:
            specs.append(TensorSpec(name, dtype, shape, align(end)))
            end = specs[-1].offset + specs[-1].size_bytes
        return cls(tuple(specs))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Manifest], tuple[tuple[TensorSpec, ...], tuple[int, ...]]]:
        return Manifest, (self.tensors, self.untrained)  # not what is cached: a hash is another one elsewhere

    @cached_property
    def _hash(self) -> int:
        return hash((self.size_bytes, len(self.tensors), self.tensors[:1], self.tensors[-1:]))  # there may be thousands

    @cached_property
    def places(self) -> tuple[tuple[slice, np.dtype[Any], tuple[int, ...]], ...]:
        """Of each tensor: its bytes in the buffer, dtype and shape."""
        return tuple(
            (slice(spec.offset, spec.offset + spec.size_bytes), DTYPES[spec.dtype], spec.shape) for spec in self.tensors
        )

    def fits(self, arrays: Sequence[Array]) -> bool:
        """Say whether arrays have these dtypes and shapes, in this order."""
        return len(arrays) == len(self.tensors) and all(
            array.shape == shape and array.dtype == dtype
            for array, (_, dtype, shape) in zip(arrays, self.places, strict=True)
        )

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.tensors]

    @cached_property
    def unmarked(self) -> Manifest:
        """The same without word of what is not trained, as updates have it: that is known by then."""
        return Manifest(self.tensors) if self.untrained else self

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The buffer cut where the dtype changes."""
        return self._cut(frozenset())

    @cached_property
    def trained_runs(self) -> tuple[Run, ...]:
        """What an optimizer steps: the tensors of floats, but for those that are marked as not trained."""
        others = (place for place, spec in enumerate(self.tensors) if DTYPES[spec.dtype].kind in "iub")
        return self._cut(frozenset([*others, *self.untrained]))

    @cached_property
    def parts(self) -> tuple[tuple[int, slice], ...]:
        """Of each tensor: the number of its run, and which of that one's elements it has."""
        parts: list[tuple[int, slice]] = []
        number, dtype = -1, ""
        for spec in self.tensors:
            if spec.dtype != dtype:
                number, dtype = number + 1, spec.dtype
            start = (spec.offset - self.runs[number].start) // DTYPES[dtype].itemsize
            parts.append((number, slice(start, start + spec.count)))
        return tuple(parts)

    @property
    def untrained_parts(self) -> tuple[tuple[int, slice], ...]:
        """The same of those that are not trained."""
        return tuple(self.parts[place] for place in self.untrained)

    def _cut(self, without: frozenset[int]) -> tuple[Run, ...]:
        runs: list[Run] = []
        is_next = False  # whether the tensor before is in the last run
        for place, spec in enumerate(self.tensors):
            if place in without:
                is_next = False
                continue
            stop = spec.offset + spec.size_bytes
            if is_next and runs[-1].dtype == spec.dtype:
                runs[-1] = Run(spec.dtype, runs[-1].start, stop)
            else:
                runs.append(Run(spec.dtype, spec.offset, stop))
            is_next = True
        return tuple(runs)

    @cached_property
    def padding(self) -> NDArray[np.int64]:
        """Offsets of the bytes between the tensors, which are zero in every model. Shape (n,)."""
        ends = np.array([spec.offset + spec.size_bytes for spec in self.tensors[:-1]], np.int64)
        lengths = np.array([spec.offset for spec in self.tensors[1:]], np.int64) - ends
        before = np.cumsum(lengths) - lengths  # bytes of padding before each gap
        places: NDArray[np.int64] = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(ends - before, lengths)
        return places

    def difference(self, other: Manifest) -> str | None:
        """Say the first way in which `other` differs from this manifest; None when they are equal."""
        if other is self:
            return None
        if len(self.tensors) != len(other.tensors):
            return f"{len(other.tensors)} tensors instead of {len(self.tensors)}"
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            if mine != theirs:
                name = f"{brief(mine.name)}, " if mine.name != theirs.name else ""
                return (
                    f"tensor {brief(theirs.name)} is {theirs.dtype}{list(theirs.shape)} "
                    f"instead of {name}{mine.dtype}{list(mine.shape)}"
                )
        return None


def allocate(size_bytes: int, again: Bytes | None = None) -> Bytes:
    """Make an uninitialised buffer of shape (size_bytes,) that starts at a multiple of `ALIGNMENT`.

    Fresh pages take as long as filling them; so a buffer that nobody needs any more is used `again`, if it fits.
    """
    if again is not None and _fits(again, size_bytes):
        return again
    room = np.empty(size_bytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size_bytes]


def is_alone(buffer: Bytes) -> bool:
    """Say whether nothing else views a buffer that `allocate` made: no array, no memoryview, no tensor made of one.

    All of them keep the memory's owner, which counts who keeps it. If in doubt, the answer is no.
    """
    return _holders(buffer) == _ALONE


def _holders(buffer: Bytes) -> int:
    return sys.getrefcount(buffer.base)


_ALONE = _holders(allocate(0))


def _fits(buffer: Bytes, size_bytes: int) -> bool:
    """Say whether `allocate` could have made this buffer."""
    return len(buffer) == size_bytes and buffer.ctypes.data % ALIGNMENT == 0 and buffer.flags.writeable


@dataclass(frozen=True, eq=False)
class Model:
    """A manifest and the flat buffer it describes."""

    manifest: Manifest
    buffer: Bytes  #: shape (manifest.size_bytes,)
    version: int = 0  #: how many aggregations made it

    @classmethod
    def from_arrays(
        cls,
        arrays: Sequence[Array],
        names: Sequence[str] | None = None,
        *,
        untrained: Collection[str] = (),
        version: int = 0,
    ) -> Model:
        """Copy arrays of any layout into a new model; the only copy between a learner's arrays and the wire.

        Parameters
        ----------
        arrays : sequence of ndarray
            Any shapes, 0-d and empty included; dtypes as in `DTYPES`.
        names : sequence of str, optional
            One for each array, all different. Without them: "0", "1", and so on.
        untrained : collection of str
            The names of those that training does not step by a gradient, such as running statistics.

        Raises
        ------
        ConfigError
            If an item is no array, its dtype is not carried, or the names do not fit.
        """
        names = [str(index) for index in range(len(arrays))] if names is None else list(names)
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise ConfigError("names", names, f"{len(arrays)} different names")
        if strange := sorted(set(untrained) - set(names)):
            raise ConfigError("untrained", strange, f"names of the tensors: {', '.join(names[:20])}")
        specs = []
        for name, array in zip(names, arrays, strict=True):
            if not isinstance(array, np.ndarray | np.generic) or array.dtype.name not in DTYPES:
                what = array.dtype if isinstance(array, np.ndarray) else type(array)
                raise ConfigError(f"tensor {name!r}", str(what), f"a NumPy array of {', '.join(DTYPES)}")
            specs.append((name, array.dtype.name, array.shape))
        tensors = Manifest.lay_out(specs).tensors
        marks = tuple(place for place, name in enumerate(names) if name in set(untrained))
        return cls.filled(Manifest(tensors, marks), arrays, version=version)

    @classmethod
    def filled(
        cls, manifest: Manifest, arrays: Sequence[Array], *, version: int = 0, again: Bytes | None = None
    ) -> Model:
        """Copy arrays that fit the manifest into a new model, perhaps in the buffer `again`."""
        model = cls(manifest, allocate(manifest.size_bytes, again), version)
        model.buffer[manifest.padding] = 0
        for view, array in zip(model.arrays(), arrays, strict=True):
            view[...] = array
        return model

    def consists_of(self, arrays: Sequence[Array]) -> bool:
        """Say whether arrays that fit its manifest are the tensors in its buffer, and no copies of them."""
        start = self.buffer.ctypes.data
        return all(
            (array.flags.c_contiguous and array.__array_interface__["data"][0] == start + place.start) or not array.size
            for array, (place, _, _) in zip(arrays, self.manifest.places, strict=True)
        )

    def arrays(self) -> list[Array]:
        """View the tensors in the buffer; nothing is copied."""
        return [self.buffer[place].view(dtype).reshape(shape) for place, dtype, shape in self.manifest.places]

    def copies(self, again: Bytes | None = None) -> list[Array]:
        """Copy the tensors out; the arrays are the caller's own. A buffer may be used `again` for them."""
        private = allocate(len(self.buffer), again)
        private[:] = self.buffer
        return Model(self.manifest, private).arrays()

    @property
    def is_frozen(self) -> bool:
        """Whether it is read-only: others may read it as well."""
        return not self.buffer.flags.writeable

    def freeze(self) -> Model:
        """Make the buffer read-only, so that many readers can share it."""
        self.buffer.flags.writeable = False
        return self
