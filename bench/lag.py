"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time

__all__ = ["tick"]

TICK_S = 0.010


async def tick(lags_ms: list[float]) -> None:
    """Sleep 10 ms at a time, and note how much longer it took."""
    while True:
        start = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags_ms.append((time.perf_counter() - start - TICK_S) * 1e3)
