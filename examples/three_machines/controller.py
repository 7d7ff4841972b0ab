"""On the machine that all can reach: python controller.py"""

import asyncio
import logging

from metisfl_async import Controller, ServerParams


async def main() -> None:
    async with Controller(ServerParams("0.0.0.0", 50051)) as controller:
        await controller.serve()  # until a driver has shut it down


logging.basicConfig(level=logging.INFO, format="%(message)s")
asyncio.run(main())
