"""Arithmetic on many elements at once, done in slices by the threads that the caller of a rule has ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["Spread", "spread", "spreading"]

Work: TypeAlias = Callable[[slice], None]

#: Does some work on all of so many elements, in slices of them.
Spread: TypeAlias = Callable[[Work, int], None]

_spread: ContextVar[Spread | None] = ContextVar("spread", default=None)


def spread(work: Work, count: int) -> None:
    """Do some work on all of so many elements: in several threads within `spreading`, else here and now.

    Parameters
    ----------
    work : callable
        Takes a slice of the elements. Slices do not overlap, and are worked on in any order, at the same time.
    count : int
        How many elements there are.
    """
    if (threads := _spread.get()) is None:
        work(slice(0, count))
    else:
        threads(work, count)


@contextmanager
def spreading(threads: Spread) -> Iterator[None]:
    """Within this, work is spread over these threads."""
    token = _spread.set(threads)
    try:
        yield
    finally:
        _spread.reset(token)
