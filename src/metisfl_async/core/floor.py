"""Says whether what comes in comes fast enough to keep its place."""

from __future__ import annotations

__all__ = ["Floor"]


class Floor:
    """A rate below which an upload loses its place; it is looked at over a period, so that a pause does no harm."""

    def __init__(self, bytes_per_s: float, period_s: float) -> None:
        self._bytes_per_s, self._period_s = bytes_per_s, period_s
        self._waited_s, self._came_bytes = 0.0, 0

    def came(self, size_bytes: int, waited_s: float) -> bool:
        """Take note of what came after so long a wait; say whether that is enough."""
        self._waited_s += waited_s
        self._came_bytes += size_bytes
        if self._waited_s < self._period_s:
            return True
        is_enough = self._came_bytes >= self._bytes_per_s * self._waited_s
        self._waited_s, self._came_bytes = 0.0, 0
        return is_enough
