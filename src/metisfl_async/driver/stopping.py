"""A stop that may be asked for before there is anything to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from metisfl_async.transport.concurrency import end_all

__all__ = ["NothingBegun", "StopRequest"]

#: For a federation to begin all the same, when it is to be stopped: what is on its way is there by then.
BEGINNING_S = 5.0


class NothingBegun(Exception):
    """Stop was asked for while the controller could not be reached; the rest is to end too."""


class StopRequest:
    """Whether the run that it belongs to is to stop, and why."""

    def __init__(self) -> None:
        self.reason = ""
        self._is_asked = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        return self._is_asked.is_set()

    def ask(self, reason: str) -> None:
        if not self.is_asked:
            self.reason = reason
            self._is_asked.set()

    async def unless_asked(self, beginning: Coroutine[Any, Any, object]) -> None:
        """Begin; or, if that takes long and a stop is asked for, do not.

        Raises
        ------
        NothingBegun
            If it did not begin.
        """
        task = asyncio.create_task(beginning, name="begin")
        asked = asyncio.create_task(self._is_asked.wait(), name="asked")
        try:
            await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([task], timeout=BEGINNING_S)
        finally:
            await end_all([task, asked])
        if task.cancelled():
            raise NothingBegun
        task.result()
