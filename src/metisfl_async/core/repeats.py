"""Says when to speak of something that happens again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

__all__ = ["Repeats"]

MAX_COUNTED = 10_000  #: different things; when there are more, counting begins anew


class Repeats:
    """Counts; the 1st, 2nd, 4th, 8th, ... time is worth a line."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()

    def count(self, what: Hashable) -> int | None:
        """Say the how-manieth time this is, or None if it is not worth a line."""
        if what not in self._counts and len(self._counts) >= MAX_COUNTED:
            self._counts.clear()
        self._counts[what] += 1
        times = self._counts[what]
        return times if times & (times - 1) == 0 else None
