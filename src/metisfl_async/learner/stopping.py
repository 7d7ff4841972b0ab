"""How long methods that are told to end are waited for, and what users hear of it."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import Any

from metisfl_async.core.checks import positive

__all__ = ["STOP_TIMEOUT_S", "Stopping"]

logger = logging.getLogger(__name__)

# Long enough for a batch or a short epoch, and shorter than the 30 s for which a controller waits for its learners to
# leave: it hears from each of them.
STOP_TIMEOUT_S = 20.0
TOLD_AFTER_S = 2.0  #: of waiting, a line says for whom


class Stopping:
    """The patience with methods of learners that are told to end; learners that share one are named in one line.

    Parameters
    ----------
    timeout_secs : float, optional
        How long each of them is waited for; None = for ever.
    """

    def __init__(self, timeout_secs: float | None = STOP_TIMEOUT_S) -> None:
        if timeout_secs is not None:
            positive("stop_timeout_secs", timeout_secs)
        self.timeout_s = timeout_secs
        self._awaited: list[str] = []
        self._timer: asyncio.TimerHandle | None = None  # of the line that names them

    async def has_ended(self, future: asyncio.Future[Any], what: str) -> bool:
        """Wait for what was told to end, however often we are; say whether it has, or patience has."""
        loop = asyncio.get_running_loop()
        end = math.inf if self.timeout_s is None else loop.time() + self.timeout_s
        self._awaited.append(what)
        if self._timer is None:
            self._timer = loop.call_later(TOLD_AFTER_S, self._tell)
        try:
            while not future.done() and (left_s := end - loop.time()) > 0:
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future], timeout=None if left_s == math.inf else left_s)
        finally:
            self._awaited.remove(what)
            if not self._awaited:
                self._timer.cancel()
                self._timer = None
        return future.done()

    def _tell(self) -> None:
        until = "without a limit" if self.timeout_s is None else f"for stop_timeout_secs={self.timeout_s:g} at most"
        logger.warning("waiting for %s to end, %s", ", ".join(sorted(self._awaited)), until)
