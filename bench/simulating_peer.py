"""A simulation of ours beside Flower's on Ray, in one run: a thousand learners with fifty images each, fifty a round.

For each: ours, Flower's, ours again; the means of ours count. Both train the same network on the same images with the
same code (`small_task.py`), in two processes at a time, from the same first weights; nobody evaluates. The cohorts are
each system's own. The first round is not counted: in it the processes start.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from processes import in_fresh_process
from small_task import EXAMPLES, Weights, accuracy, first_weights, part, train
from tables import Columns, Run

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, Simulation, TerminationSignals
from metisfl_async.events import RoundFinished

BENCH = Path(__file__).parent
WORKERS = 2
TIMEOUT_S = 900
COLUMNS: Columns = {
    "learners": ("learners", ",d"),
    "cohort": ("learners in a round", "d"),
    "rounds": ("rounds", "d"),
    "flower_a_s": ("Flower's rounds a second", ".2f"),
    "ours_a_s": ("our rounds a second", ".2f"),
    "times_faster": ("ours / Flower's", ".1f"),
    "flower_accuracy": ("Flower's accuracy", ".3f"),
    "ours_accuracy": ("our accuracy", ".3f"),
}


class Trains(Learner):
    def __init__(self, number: int, *, directory: str) -> None:
        super().__init__(num_training_examples=EXAMPLES)
        self.part = part(directory, number)

    def get_weights(self) -> Weights:
        return first_weights()

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        return train(parameters, *self.part), {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {}


async def run_once(directory: str, learners: int, cohort: int, rounds: int) -> tuple[float, float]:
    """Give rounds a second, and the last model's accuracy."""
    config = ControllerConfig(participation_ratio=cohort / learners, evaluate_every=0)
    simulation = Simulation(partial(Trains, directory=directory), learners=learners, workers=WORKERS)
    signals = TerminationSignals(federation_rounds=rounds)
    session = DriverSession(Controller(controller_config=config), simulation, signals, initial_weights=first_weights())
    ends: list[float] = []

    async def watch() -> None:
        ends.extend([time.perf_counter() async for event in session.events() if isinstance(event, RoundFinished)])

    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        group.create_task(watch())
        result = await session.run()
    assert all(len(record.participants) == cohort for record in result.rounds)
    assert result.final_model is not None
    return (rounds - 1) / (ends[-1] - ends[0]), accuracy(list(result.final_model), directory)


def ours(directory: str, *sizes: int) -> tuple[float, float]:
    return asyncio.run(run_once(directory, *sizes))


def flower(directory: str, *sizes: int) -> tuple[float, float]:
    python = BENCH / ".venv-flower" / "bin" / "python"
    command = [str(python), str(BENCH / "simulating_flower.py"), directory, *map(str, sizes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["rounds_a_s"], found["accuracy"]


def write_images(directory: Path) -> None:
    """Write Fashion-MNIST as files that any process may map into its memory."""
    sys.path.insert(0, str(BENCH.parent / "examples" / "quickstart_tensorflow"))
    from data import load

    dataset = load("fashion-mnist")
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.save(directory / f"{name}.npy", getattr(dataset, name))


def main() -> None:
    run = Run(__doc__)
    table = run.table("simulating_peer", COLUMNS)
    learners, cohort, rounds = (100, 10, 3) if run.is_quick else (1_000, 50, 50)
    with tempfile.TemporaryDirectory() as directory:
        write_images(Path(directory))
        before, peer, after = (in_fresh_process(do, directory, learners, cohort, rounds) for do in (ours, flower, ours))
    ours_a_s = statistics.mean((before[0], after[0]))
    table.add(
        learners=learners,
        cohort=cohort,
        rounds=rounds,
        flower_a_s=peer[0],
        ours_a_s=ours_a_s,
        times_faster=ours_a_s / peer[0],
        flower_accuracy=peer[1],
        ours_accuracy=statistics.mean((before[1], after[1])),
    )
    run.end()


if __name__ == "__main__":
    main()
