"""Tensors in safetensors files that know whether they are damaged.

The file's first entry is the XXH3-128 of everything behind it: of the rest of the header and of all tensors. What
stands before it is always the same, but for the header's length, on which everything else depends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from metisfl_async.codec.digest import DIGEST_CHARACTERS, digest_of
from metisfl_async.core.model import Array
from metisfl_async.store.base import Stored
from metisfl_async.store.record import Record, bytes_of

__all__ = ["read", "sync", "write"]

START = b'{"__metadata__":{"digest":"'

DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def write(path: Path, owner: str, record: str, arrays: Sequence[Array]) -> None:
    """Write a file and bring it to the disk; the directory has yet to be."""
    # Any text may be the name of a tensor, but not of one in a safetensors file; so there they are numbered.
    header: dict[str, object] = {"__metadata__": {"digest": "0" * DIGEST_CHARACTERS, "owner": owner, "record": record}}
    end = 0
    for number, array in enumerate(arrays):
        start, end = end, end + array.nbytes
        dtype = DTYPES[array.dtype.name]
        header[str(number)] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    rest = json.dumps(header, separators=(",", ":")).encode()[len(START) + DIGEST_CHARACTERS :]
    rest += b" " * (-(len(START) + DIGEST_CHARACTERS + len(rest)) % 8)
    parts: list[bytes | memoryview] = [rest, *(bytes_of(array) for array in arrays)]
    digest = digest_of(parts).encode()
    with path.open("wb") as file:
        for part in ((len(START + digest + rest)).to_bytes(8, "little"), START, digest, *parts):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Stored:
    """Read a file whose every byte is as it was written.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    # safetensors' own reader copies every tensor, and holds Python's lock meanwhile; this reads each into its place.
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - 8
        length = int.from_bytes(file.read(8), "little")
        if not len(START) + DIGEST_CHARACTERS <= length <= left:
            raise ValueError("its header is no header")
        header = file.read(length)
        digest, rest = header[len(START) :][:DIGEST_CHARACTERS], header[len(START) + DIGEST_CHARACTERS :]
        try:
            record = Record.from_text(json.loads(header)["__metadata__"]["record"])
            if sum(spec.size_bytes for spec in record.manifest.tensors) != left - length:
                raise ValueError("its length is not what its header says")
            stored = record.make()
        except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"its header is no header: {error!r}") from error
        arrays = [bytes_of(array) for array in stored.model.arrays()]
        for array in arrays:
            if file.readinto(array) != len(array):
                raise ValueError("it ends too early")
    if not header.startswith(START) or digest_of([rest, *arrays]).encode() != digest:
        raise ValueError("its content is not what was written")
    return stored


def sync(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
