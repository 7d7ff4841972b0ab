"""Trying again: one policy for everybody who waits for a controller."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, stop_never
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

    backoff = jittered_backoff(multiplier=0.1, max=MAX_BACKOFF_S)

    def pause(state: RetryCallState) -> float:
        left_s = math.inf if timeout_s is None else max(timeout_s - (state.seconds_since_start or 0.0), 0.0)
        return min(backoff(state), left_s)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((TransportError, UnknownLearner, Superseded)),
        wait=pause,
        stop=stop_never if timeout_s is None else stop_after_delay(timeout_s),
        before_sleep=log,
        reraise=True,
    )
    result: T = await retrying(call, *args, **kwargs)
    return result
