"""The controller: it sends the learners their work and averages what comes back. It sees weights, never images.

Start it with `python controller.py`. With `--models DIR`, it may be killed, and started again: it goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from data import options

from metisfl_async import Controller, ControllerConfig, MetisError, ModelStoreConfig, ServerParams


def controller_config(epochs: int) -> ControllerConfig:
    return ControllerConfig(train_params={"batch_size": 64, "epochs": epochs}, min_learners=3)


async def serve(server_params: ServerParams, config: ControllerConfig, models: Path | None) -> None:
    store = ModelStoreConfig() if models is None else ModelStoreConfig(model_store="Disk", directory=models)
    async with Controller(server_params, config, store, resume=models is not None) as controller:
        print(f"the controller listens on {controller.address}")
        await controller.serve()  # until the driver shuts it down


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--models", type=Path, metavar="DIR", help="keep the models there, and go on with them")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = controller_config(arguments.epochs)
    asyncio.run(serve(ServerParams(port=arguments.port), config, arguments.models))


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, MetisError) as error:
        sys.exit(str(error) or 130)
