"""Arrays on their way between processes of one machine: large ones in a file, which is mapped and not copied."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Parcel"]

FILE_BYTES = 64 * 1024  #: what is smaller goes along with the message


@dataclass(frozen=True, slots=True)
class Parcel:
    """Arrays of shape (n,), all of one dtype."""

    arrays: Sequence[NDArray[Any]]  #: none, if they are in a file
    path: str = ""
    dtype: str = ""
    counts: tuple[int, ...] = ()

    @classmethod
    def pack(cls, arrays: Sequence[NDArray[Any]], directory: str | None) -> Parcel:
        """Write arrays into a new file of this directory, if they are large; without one, they go along."""
        if directory is None or sum(array.nbytes for array in arrays) < FILE_BYTES:
            return cls(arrays)
        number, path = tempfile.mkstemp(dir=directory)
        parcel = cls((), path, arrays[0].dtype.str, tuple(len(array) for array in arrays))
        try:
            with os.fdopen(number, "wb") as file:
                for array in arrays:
                    file.write(np.ascontiguousarray(array).view(np.uint8).data)
        except OSError as error:
            parcel.discard()
            raise OSError(error.errno, error.strerror, directory) from error
        return parcel

    @classmethod
    def lying_at(cls, path: Path) -> Parcel:
        """Give the bytes of a file."""
        size_bytes = path.stat().st_size  # what is empty cannot be mapped
        return cls((), str(path), "|u1", (size_bytes,)) if size_bytes else cls([np.empty(0, np.uint8)])

    def carried(self) -> Parcel:
        """Give the same, to go along with the message."""
        return Parcel([np.array(array) for array in self.unpack()])

    def unpack(self) -> list[NDArray[Any]]:
        """Give the arrays; those in a file are read-only, and stay when it is discarded."""
        if not self.path:
            return list(self.arrays)
        whole = np.memmap(self.path, np.dtype(self.dtype), "r")
        ends = np.cumsum(self.counts)
        return [np.asarray(whole[end - count : end]) for end, count in zip(ends, self.counts, strict=True)]

    def discard(self) -> None:
        """Remove the file, if there is one."""
        if self.path:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
