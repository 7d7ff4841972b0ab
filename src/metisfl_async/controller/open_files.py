"""How near this process is to the number of files it may open; when none is left, connecting fails without a word."""

from __future__ import annotations

import errno
import os

try:
    import resource
except ModuleNotFoundError:  # Windows, where there is no such limit
    resource = None  # type: ignore[assignment]

__all__ = ["scarce"]

NEAR = 0.5  #: of the limit: each learner takes a second one while it sends a large update


def scarce() -> tuple[int, str] | None:
    """Give the soft limit, and what to do about it, if half of the files that may be open are; else None."""
    if resource is None:
        return None
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        taken = len(os.listdir("/dev/fd"))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return None  # a system that does not tell
        taken = limit
    if taken < NEAR * limit:
        return None
    if limit == hard:
        return limit, "the hard limit is the same: an administrator has to raise it"
    value = "unlimited" if hard == resource.RLIM_INFINITY else hard
    return limit, f"`ulimit -n {value}` raises it for what starts next"
