"""Trying again: one policy for everybody who waits for a controller."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from metisfl_async.core.errors import Superseded, TransportError, UnknownLearner

__all__ = ["insisting"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 10.0


async def insisting(
    who: str, address: str, timeout_s: float | None, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Await ``call(...)``, again and again while it fails for reasons that pass.

    Pauses are jittered and grow to 10 s; after `timeout_s` the last error is raised. The 1st, 2nd, 4th, 8th, ...
    failure is logged.
    """
    clock = asyncio.get_running_loop().time
    given_up_at = clock() + (math.inf if timeout_s is None else timeout_s)
    backoff_s, failures = FIRST_BACKOFF_S, 0
    while True:
        try:
            return await call(*args, **kwargs)
        except (TransportError, UnknownLearner, Superseded) as error:
            left_s, failures = given_up_at - clock(), failures + 1
            if left_s <= 0:
                raise
            if failures & (failures - 1) == 0:
                reason = error.reason if isinstance(error, TransportError) else error
                logger.warning("%s waits for %s: %s", who, address, reason)
        await asyncio.sleep(min(random.uniform(0, backoff_s), left_s))
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
