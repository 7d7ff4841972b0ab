"""Chunks of a megabyte come and go; the C library should keep their memory for the next ones."""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["keep_freed_memory"]

_LARGEST = 32 * 2**20  #: glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bits


@cache  # once a process is enough
def keep_freed_memory() -> None:
    """Make glibc keep freed megabytes instead of giving them back to the kernel at once.

    It does so by itself, up to twice the size, once a block that large was freed; so one is. Otherwise every chunk's
    pages are given back, asked for again and zeroed, which takes as long as receiving the chunk. Elsewhere than under
    glibc nothing happens.
    """
    np.empty(_LARGEST - 2**16, np.uint8)  # its pages are never touched
