"""A manifest as a msgpack value and back, believing nothing."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from itertools import pairwise
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgpack

from metisfl_async.codec.outline import is_list, kind_of, reading, unpacker
from metisfl_async.core.errors import Damaged, TooLarge, UnknownDtype, brief
from metisfl_async.core.model import DTYPES, Manifest, TensorSpec, align

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_EXTENTS",
    "MAX_MODEL_BYTES",
    "MAX_TENSORS",
    "manifest_from_wire",
    "marked",
    "packed_manifest",
]

MAX_TENSORS = 16_384
MAX_DIMENSIONS = 32  #: what every NumPy takes
MAX_EXTENTS = 65_536  #: in all shapes of a model together
STEP = 512  #: tensors that are read at one go: about 2 ms
MAX_MODEL_BYTES = 2**48  #: above any memory; keeps every offset a small integer

# Both for as long as somebody uses them. A federation's models all have one manifest, and what is known of it need not
# be found out for each of them: with a hundred tensors, that is a millisecond.
_MOST_READ = 4 * MAX_DIMENSIONS  # extents; what has more is not even made into a list
_known: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()
_packed: WeakKeyDictionary[Manifest, bytes] = WeakKeyDictionary()
_marked: WeakValueDictionary[tuple[bytes, tuple[int, ...]], Manifest] = WeakValueDictionary()


def packed_manifest(manifest: Manifest) -> bytes:
    """Turn a manifest into msgpack's bytes of ``[[name, dtype, shape, offset], ...]``."""
    if (packed := _packed.get(manifest)) is None:
        packed = _packed[manifest] = msgpack.packb([_parts(spec) for spec in manifest.tensors])
    return packed


def manifest_from_wire(packed: memoryview) -> Generator[None, None, Manifest]:
    """Read and check a received manifest, one tensor after another, without allocating for what it claims.

    Between two steps, others may get their turn; what has been received before is the same object, and takes one step.
    Offsets must be the ones that `Manifest.lay_out` gives, so tensors can neither overlap nor leave gaps.

    Raises
    ------
    UnknownDtype, TooLarge, Damaged
        What is wrong, and with which tensor.
    """
    if (known := _known_from(packed)) is not None:
        return known
    yield
    if (known := _known_from(packed)) is not None:  # whoever had the turn before has read it
        return known
    specs: list[TensorSpec] = []
    packer = msgpack.Packer(autoreset=False)  # it may have come in a longer form than msgpack's shortest
    for spec in _checked(_entries(packed)):
        specs.append(spec)
        packer.pack(_parts(spec))
        if len(specs) % STEP == 0:
            yield
    shortest = msgpack.Packer().pack_array_header(len(specs)) + packer.bytes()
    manifest = _known.setdefault(shortest, Manifest(tuple(specs)))
    _packed.setdefault(manifest, shortest)
    return manifest


def _known_from(packed: memoryview) -> Manifest | None:
    return _known.get(packed)  # type: ignore[call-overload, no-any-return]  # the bytes that this is a view of


def marked(manifest: Manifest, untrained: object) -> Manifest:
    """Mark tensors as not trained, by their numbers as received.

    Raises
    ------
    Damaged
        If they are not numbers of tensors in their order.
    """
    if not untrained:
        return manifest
    last = len(manifest.tensors) - 1
    if not isinstance(untrained, list) or not all(_is_size(number) for number in untrained):
        raise Damaged("header", f"untrained {brief(untrained)}; allowed: a list of integers >= 0")
    if any(a >= b for a, b in pairwise(untrained)) or untrained[-1] > last:
        raise Damaged("header", f"untrained {brief(untrained)}; allowed: growing numbers of tensors, {last} at most")
    key = packed_manifest(manifest), tuple(untrained)
    if (known := _marked.get(key)) is None:
        known = _marked[key] = Manifest(manifest.tensors, key[1])
    return known


def _parts(spec: TensorSpec) -> tuple[str, str, tuple[int, ...], int]:
    return spec.name, spec.dtype, spec.shape, spec.offset


def _entries(packed: memoryview) -> Iterator[object]:
    """Read what should be tensors, one at a time."""
    if not is_list(packed[0]):
        raise Damaged("manifest", f"a {kind_of(packed[0])} instead of a list of tensors")
    with reading("manifest"):
        reader = unpacker(packed, max_array_len=_MOST_READ)
        if (count := reader.read_array_header()) > MAX_TENSORS:
            raise TooLarge("manifest", f"{count} tensors; at most {MAX_TENSORS}")
        for _ in range(count):
            yield reader.unpack()


def _checked(entries: Iterable[object]) -> Iterator[TensorSpec]:
    names: set[str] = set()
    end = extents = 0
    for index, entry in enumerate(entries):
        spec = _tensor(entry, index)
        extents += len(spec.shape)
        if extents > MAX_EXTENTS:
            raise TooLarge(_place(index, spec.name), f"more than {MAX_EXTENTS} extents in all shapes together")
        if spec.name in names:
            raise Damaged(_place(index, spec.name), "the name is taken by an earlier tensor")
        if spec.offset != align(end):
            raise Damaged(_place(index, spec.name), f"offset {spec.offset} instead of {align(end)}")
        end = spec.offset + spec.size_bytes
        if end > MAX_MODEL_BYTES:
            raise TooLarge(_place(index, spec.name), f"ends at byte {end}; at most {MAX_MODEL_BYTES}")
        names.add(spec.name)
        yield spec


def _tensor(entry: object, index: int) -> TensorSpec:
    if not isinstance(entry, list) or len(entry) != 4:
        raise Damaged(f"manifest, tensor {index}", f"{brief(entry)} instead of [name, dtype, shape, offset]")
    name, dtype, shape, offset = entry
    if not isinstance(name, str):
        raise Damaged(f"manifest, tensor {index}", f"the name is {brief(name)} instead of a string")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnknownDtype(_place(index, name), f"dtype {brief(dtype)}; allowed: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(_is_size(extent) for extent in shape):
        raise Damaged(_place(index, name), f"shape {brief(shape)} instead of a list of integers >= 0")
    if len(shape) > MAX_DIMENSIONS:
        raise TooLarge(_place(index, name), f"{len(shape)} dimensions; at most {MAX_DIMENSIONS}")
    # NumPy makes no array whose extents overflow without their zeros, although it would be empty.
    if math.prod(extent or 1 for extent in shape) * DTYPES[dtype].itemsize > MAX_MODEL_BYTES:
        raise TooLarge(
            _place(index, name), f"{dtype}{shape} is more than {MAX_MODEL_BYTES} bytes, or would be but for a 0"
        )
    if not _is_size(offset):
        raise Damaged(_place(index, name), f"offset {brief(offset)} instead of an integer >= 0")
    return TensorSpec(name, dtype, tuple(shape), offset)


def _place(index: int, name: str) -> str:
    return f"manifest, tensor {index} ({brief(name)})"


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0
