"""What a line between two parties does to what passes: how long it takes, and what goes wrong, drawn from a seed."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from metisfl_async.core.checks import number, positive
from metisfl_async.core.errors import ConfigError, ConnectionLost

__all__ = ["ADDRESS", "CALLS", "Call", "Faults", "Line"]

ADDRESS = "the controller"

Call: TypeAlias = Literal["join", "message", "upload", "download", "other"]
CALLS: tuple[Call, ...] = get_args(Call)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """How fast a party's line to the controller is.

    Parameters
    ----------
    bytes_per_s : float
        How much of a model passes in a second, each way.
    latency_s : float
        How long anything takes to get to the other side.
    """

    bytes_per_s: float = math.inf
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if self.bytes_per_s != math.inf:
            positive("bytes_per_s", self.bytes_per_s)
        number("latency_s", self.latency_s, least=0)


@dataclass(slots=True)
class _Cut:
    """A cut that is due once so much of a model has passed."""

    during: Call
    at: float


class Faults:
    """One party's line, and what is wrong with it; `note` is told of all that goes wrong.

    What a connection carries keeps its order, as with TCP: what is lost of it is lost with the connection.
    """

    def __init__(self, who: str, line: Line, seed: int, note: Callable[[str], None]) -> None:
        self.line, self.delay_s = line, 0.0  #: what may come to the latency, at most
        self._who, self._note = who, note
        self._rng = random.Random(f"{seed} {who}")
        self._drops: list[tuple[Call | None, bool]] = []  # of which call; whether the answer
        self._duplicates: list[Call | None] = []
        self._cuts: list[_Cut] = []
        self._silent_until = 0.0
        self._arrives_at: dict[str, float] = {}  # of each direction of the connection: when its latest message

    # --- what is asked for -----------------------------------------------------------------------------------------

    def drop(self, what: Call | None, times: int, *, answer: bool) -> None:
        self._drops += [(_checked(what), answer)] * times

    def duplicate(self, what: Call | None, times: int) -> None:
        self._duplicates += [_checked(what)] * times

    def cut_during(self, during: Call, at: float) -> None:
        if during not in ("upload", "download"):
            raise ConfigError("during", during, "'upload', 'download', or None to cut at once")
        number("at", at, least=0, below=1)
        self._cuts.append(_Cut(during, at))

    def silence(self, seconds: float) -> None:
        positive("seconds", seconds)
        self._silent_until = asyncio.get_running_loop().time() + seconds

    def mend(self) -> None:
        """Forget what has not happened yet."""
        self.delay_s = self._silent_until = 0.0
        for planned in (self._drops, self._duplicates, self._cuts):
            planned.clear()

    # --- what happens ----------------------------------------------------------------------------------------------

    @property
    def is_silent(self) -> bool:
        return asyncio.get_running_loop().time() < self._silent_until

    async def travel(self) -> None:
        """Take the time that a call takes to the other side, or back."""
        await _until(asyncio.get_running_loop().time() + self._latency_s())
        await self.hear()

    def arrival(self, direction: str) -> float:
        """Say when what is said now arrives: not before what was said earlier."""
        at = max(asyncio.get_running_loop().time() + self._latency_s(), self._arrives_at.get(direction, 0.0))
        self._arrives_at[direction] = at
        return at

    async def arrive(self, at: float) -> None:
        await _until(at)
        await self.hear()

    async def hear(self) -> None:
        """Wait until something passes."""
        while self.is_silent:
            await _until(self._silent_until)

    async def carry(self, size_bytes: int) -> None:
        """Take the time that so much of a model takes."""
        await asyncio.sleep(size_bytes / self.line.bytes_per_s)
        await self.hear()

    def lose(self, what: Call, *, answer: bool) -> None:
        """Raise if this call, or its answer, is to be lost."""
        for planned in self._drops:
            if planned in ((what, answer), (None, answer)):
                self._drops.remove(planned)
                self.tell(f"{'the answer to ' if answer else ''}{what} is lost")
                raise ConnectionLost(ADDRESS, f"{what} was lost")

    def doubles(self, what: Call) -> bool:
        """Whether this call is to come twice."""
        for planned in self._duplicates:
            if planned in (what, None):
                self._duplicates.remove(planned)
                self.tell(f"{what} comes twice")
                return True
        return False

    def cuts(self, what: Call, share: float) -> bool:
        """Whether the connection is to be cut before so much of a model has passed."""
        for cut in self._cuts:
            if cut.during == what and share > cut.at:
                self._cuts.remove(cut)
                return True
        return False

    def _latency_s(self) -> float:
        return self.line.latency_s + (self._rng.uniform(0.0, self.delay_s) if self.delay_s else 0.0)

    def tell(self, what: str) -> None:
        self._note(f"{self._who}: {what}")


def _checked(what: Call | None) -> Call | None:
    if what is not None and what not in CALLS:
        raise ConfigError("what", what, f"{', '.join(map(repr, CALLS))}, or None for any")
    return what


async def _until(at: float) -> None:
    await asyncio.sleep(max(at - asyncio.get_running_loop().time(), 0.0))
