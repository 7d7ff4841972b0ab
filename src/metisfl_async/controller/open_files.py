"""How near this process is to the number of files it may open; when none is left, connecting fails without a word."""

from __future__ import annotations

import os

try:
    import resource
except ModuleNotFoundError:  # Windows, where there is no such limit
    resource = None  # type: ignore[assignment]

__all__ = ["scarce"]

NEAR = 0.8  #: of the limit


def scarce() -> tuple[int, str] | None:
    """Give the soft limit, and what to do about it, if four fifths of the files that may be open are; else None.

    A new descriptor is the lowest one that is free, so its number says how many are taken.
    """
    if resource is None:
        return None
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError:  # not even one is left
        lowest = limit
    else:
        os.close(lowest)
    if lowest < NEAR * limit:
        return None
    if limit == hard:
        return limit, "the hard limit is the same: an administrator has to raise it"
    value = "unlimited" if hard == resource.RLIM_INFINITY else hard
    return limit, f"`ulimit -n {value}` raises it for what starts next"
