"""A manifest as a msgpack value and back, believing nothing."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgpack

from metisfl_async.core.errors import Damaged, TooLarge, UnknownDtype, brief
from metisfl_async.core.model import DTYPES, Manifest, TensorSpec, align

__all__ = ["MAX_DIMENSIONS", "MAX_MODEL_BYTES", "MAX_TENSORS", "manifest_from_wire", "packed_manifest"]

MAX_TENSORS = 16_384  #: read in about 35 ms
MAX_DIMENSIONS = 32  #: what every NumPy takes
MAX_MODEL_BYTES = 2**48  #: above any memory; keeps every offset a small integer

# Both for as long as somebody uses them. A federation's models all have one manifest, and what is known of it need not
# be found out for each of them: with a hundred tensors, that is a millisecond.
_known: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()
_packed: WeakKeyDictionary[Manifest, bytes] = WeakKeyDictionary()


def packed_manifest(manifest: Manifest) -> bytes:
    """Turn a manifest into msgpack's bytes of ``[[name, dtype, shape, offset], ...]``."""
    if (packed := _packed.get(manifest)) is None:
        tensors = [[spec.name, spec.dtype, list(spec.shape), spec.offset] for spec in manifest.tensors]
        packed = _packed[manifest] = msgpack.packb(tensors)
    return packed


def manifest_from_wire(value: object) -> Manifest:
    """Check a received manifest, without allocating for what it claims.

    Offsets must be the ones that `Manifest.lay_out` gives, so tensors can neither overlap nor leave gaps. What has been
    received before is the same object.

    Raises
    ------
    UnknownDtype, TooLarge, Damaged
        What is wrong, and with which tensor.
    """
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):  # lists within lists without end, for example
        return _checked(value)
    if (manifest := _known.get(packed)) is None:
        manifest = _known[packed] = _checked(value)
    return manifest


def _checked(value: object) -> Manifest:
    if not isinstance(value, list):
        raise Damaged("manifest", f"a {type(value).__name__} instead of a list of tensors")
    if len(value) > MAX_TENSORS:
        raise TooLarge("manifest", f"{len(value)} tensors; at most {MAX_TENSORS}")
    specs: list[TensorSpec] = []
    names: set[str] = set()
    end = 0
    for index, entry in enumerate(value):
        spec = _tensor(entry, index)
        if spec.name in names:
            raise Damaged(_place(index, spec.name), "the name is taken by an earlier tensor")
        if spec.offset != align(end):
            raise Damaged(_place(index, spec.name), f"offset {spec.offset} instead of {align(end)}")
        end = spec.offset + spec.size_bytes
        if end > MAX_MODEL_BYTES:
            raise TooLarge(_place(index, spec.name), f"ends at byte {end}; at most {MAX_MODEL_BYTES}")
        names.add(spec.name)
        specs.append(spec)
    return Manifest(tuple(specs))


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
