"""The whole federation in one process, on one event loop.

Start it with `python federation.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from controller import controller_config
from data import load, options
from driver import report
from learner import NUM_LEARNERS, ImageLearner

from metisfl_async import Controller, DriverSession, MetisError, ServerParams, TerminationSignals


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="default: the current directory")
    parser.add_argument("--listen", action="store_true", help="talk over gRPC on --port instead of in memory")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("metisfl_async.driver").setLevel(logging.INFO)
    # Three models in one process look to TensorFlow like one that is traced again and again, and it may warn of that.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    arguments.output.mkdir(parents=True, exist_ok=True)
    dataset = load(arguments.dataset, arguments.limit)
    server_params = ServerParams(port=arguments.port) if arguments.listen else None
    session = DriverSession(
        Controller(server_params, controller_config(arguments.epochs)),
        learners=[ImageLearner(number, dataset) for number in range(NUM_LEARNERS)],
        termination_signals=TerminationSignals(federation_rounds=arguments.rounds),
    )
    result = asyncio.run(session.run(progress=True))
    report(result, dataset, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, MetisError) as error:
        sys.exit(str(error) or 130)
