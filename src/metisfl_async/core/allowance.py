"""How much of something a party may have: a bucket that fills at a rate, from which each takes."""

from __future__ import annotations

import math

__all__ = ["Allowance"]


class Allowance:
    """So much at once, and so much per second after that; what is above has to wait.

    It is a token bucket. Nothing is refused: whoever spends more than there is hears how long to wait.

    Parameters
    ----------
    per_s : float
        How fast it fills, in any unit, per second.
    at_once : float
        What it holds at most, and at first.
    """

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left, self._earned = at_once, 0.0
        self._seen_at = -math.inf

    def earn(self, amount: float, most: float) -> None:
        """Allow more, once: what is asked for is not held back. What is left of earlier such is kept, up to `most`."""
        self._earned = max(self._earned, min(self._earned + amount, most))

    def forfeit(self, amount: float) -> None:
        """Take back what was allowed and has not been spent."""
        self._earned = max(0.0, self._earned - max(0.0, amount))

    def spend(self, now: float, amount: float = 1.0) -> float:
        """Take so much out, first of what was earned; say for how many seconds whoever takes it has to wait."""
        self._left = min(self._at_once, self._left + (now - self._seen_at) * self._per_s)
        self._seen_at = now
        earned = min(self._earned, amount)
        self._earned -= earned
        self._left -= amount - earned
        return max(0.0, -self._left / self._per_s)
