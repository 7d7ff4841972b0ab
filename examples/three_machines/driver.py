"""Wherever you sit: python driver.py CONTROLLER_HOST

It needs certs/ca.pem, certs/alice.pem and certs/alice.key.
"""

import asyncio
import logging
import sys

from metisfl_async import ClientParams, DriverSession, TerminationSignals

logging.basicConfig(level=logging.INFO, format="%(message)s")
params = ClientParams(sys.argv[1], 50051, "certs/ca.pem", certificate="certs/alice.pem", private_key="certs/alice.key")
session = DriverSession.remote(params, TerminationSignals(federation_rounds=10), wait_for=3)
result = asyncio.run(session.run(progress=True))
print(result, result.final_model)
