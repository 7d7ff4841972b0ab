"""An amount that many share: who wants some waits until there is enough, in order of asking."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Budget"]


class Budget:
    """At most `amount` taken at one time, by at most `takers`; one taker is always let in, whatever it wants."""

    def __init__(self, amount: int, takers: int | None = None) -> None:
        self.taken = 0
        self._amount, self._most_takers = amount, takers
        self._takers = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not turn.cancelled() for _, turn in self._waiting)

    async def take(self, amount: int) -> None:
        """Wait for so much; give it back with `give_back`, once."""
        if not self._waiting and self._fits(amount):
            self._take(amount)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(amount)  # the turn came, but nobody is there to use it
            else:
                self._admit()  # it may have been ours that was too large
            raise

    def give_back(self, amount: int) -> None:
        self.taken -= amount
        self._takers -= 1
        self._admit()

    def _take(self, amount: int) -> None:
        self.taken += amount
        self._takers += 1

    def _fits(self, amount: int) -> bool:
        if self._most_takers is not None and self._takers >= self._most_takers:
            return False
        return self.taken == 0 or self.taken + amount <= self._amount

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._fits(self._waiting[0][0])):
            amount, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._take(amount)
                turn.set_result(None)
