"""On the machine that all can reach: python controller.py

It needs certs/ca.pem, certs/server.pem and certs/server.key, which `metisfl-async certs` made.
"""

import asyncio
import logging

from metisfl_async import Controller, ServerParams


async def main() -> None:
    files = ("certs/ca.pem", "certs/server.pem", "certs/server.key")
    async with Controller(ServerParams("0.0.0.0", 50051, *files, require_client_certificate=True)) as controller:
        await controller.serve()  # until a driver has shut it down


logging.basicConfig(level=logging.INFO, format="%(message)s")
asyncio.run(main())
