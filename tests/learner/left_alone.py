"""A session for tests whose learner trains for ever in another process, and says which.

Usage: PID=FILE left_alone.py {process|simulation}
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from federations import Adds

from metisfl_async import Controller, DriverSession, Simulation, TerminationSignals
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult


class Hangs(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        file = Path(os.environ["PID"])
        file.with_suffix(".new").write_text(str(os.getpid()))
        file.with_suffix(".new").rename(file)
        time.sleep(600)
        raise AssertionError


def hangs(number: int) -> Hangs:
    return Hangs(number + 1)


async def main() -> None:
    signals = TerminationSignals(federation_rounds=1)
    if sys.argv[1] == "simulation":
        await DriverSession(Controller(), Simulation(hangs, learners=1, workers=1), signals).run()
    else:
        await DriverSession(Controller(), [Hangs(1)], signals, worker="process").run()


if __name__ == "__main__":
    asyncio.run(main())
