"""Trying again: one policy for everybody who waits for a controller."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity import wait_random_exponential as jittered_backoff

from metisfl_async.core.errors import Superseded, TransportError, UnknownLearner

__all__ = ["insisting"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MAX_BACKOFF_S = 10.0


async def insisting(
    who: str, address: str, timeout_s: float | None, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Await ``call(...)``, again and again while it fails for reasons that pass.

    Pauses are jittered and grow to 10 s; after `timeout_s` the last error is raised. The 1st, 2nd, 4th, 8th, ...
    failure is logged.
    """

    def log(state: RetryCallState) -> None:
        attempts = state.attempt_number
        if attempts & (attempts - 1) == 0 and state.outcome is not None:
            error = state.outcome.exception()
            reason = error.reason if isinstance(error, TransportError) else error
            logger.warning("%s waits for %s: %s", who, address, reason)

    clock = asyncio.get_running_loop().time
    given_up_at = clock() + (math.inf if timeout_s is None else timeout_s)
    backoff = jittered_backoff(multiplier=0.1, max=MAX_BACKOFF_S)

    def pause(state: RetryCallState) -> float:
        return min(backoff(state), max(given_up_at - clock(), 0.0))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((TransportError, UnknownLearner, Superseded)),
        wait=pause,
        stop=lambda _: clock() >= given_up_at,
        before_sleep=log,
        reraise=True,
    )
    result: T = await retrying(call, *args, **kwargs)
    return result
