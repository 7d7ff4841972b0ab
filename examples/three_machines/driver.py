"""Wherever you sit: python driver.py CONTROLLER_HOST"""

import asyncio
import logging
import sys

from metisfl_async import ClientParams, DriverSession, TerminationSignals

logging.basicConfig(level=logging.INFO, format="%(message)s")
session = DriverSession(ClientParams(sys.argv[1], 50051), 3, TerminationSignals(federation_rounds=10))
result = asyncio.run(session.run(progress=True))
print(result, result.final_model)
