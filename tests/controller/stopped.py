"""A program for tests: a loop under a watchdog in a process that is stopped from outside. Prints the last gap."""

from __future__ import annotations

import asyncio
import logging

from metisfl_async.controller.watchdog import Gap, Watchdog


async def main() -> Gap:
    async with Watchdog() as watchdog:
        print("watching", flush=True)  # noqa: T201
        while (gap := watchdog.last_gap) is None:  # noqa: ASYNC110 - the process is stopped from outside
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # what would be said of it is said by then
        return gap


logging.basicConfig(level=logging.DEBUG)
print(asyncio.run(main()).length_s)  # noqa: T201
