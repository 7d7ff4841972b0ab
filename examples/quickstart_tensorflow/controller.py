"""The controller: it sends the learners their work and averages what comes back. It sees weights, never images.

Start it with `python controller.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from data import options

from metisfl_async import Controller, ControllerConfig, MetisError, ServerParams


def controller_config(epochs: int) -> ControllerConfig:
    return ControllerConfig(train_params={"batch_size": 64, "epochs": epochs}, min_learners=3)


async def serve(server_params: ServerParams, config: ControllerConfig) -> None:
    async with Controller(server_params, config) as controller:
        print(f"the controller listens on {controller.address}")
        await controller.serve()  # until the driver shuts it down


def main() -> None:
    arguments = options(__doc__).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(serve(ServerParams(port=arguments.port), controller_config(arguments.epochs)))


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, MetisError) as error:
        sys.exit(str(error) or 130)
