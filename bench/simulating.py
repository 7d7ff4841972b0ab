"""A simulation: how many rounds a second, with a thousand learners of which fifty train, and with a hundred thousand.

Each learner has a model of 10 thousand float32. It trains for no time at all, or for some in which it holds Python's
lock. Nobody evaluates. In the first round all learners join, and the workers start, which import the package. The run
fails unless every learner that was asked counted, and unless the model is the same however many workers there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import in_fresh_process, peak_rss_mb
from tables import Columns, Run

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, Simulation, TerminationSignals
from metisfl_async.events import RoundFinished

Weights = Sequence[NDArray[Any]]
PARAMETERS = 10_000
TIMEOUT_S = 300
COLUMNS: Columns = {
    "learners": ("learners", ",d"),
    "cohort": ("learners in a round", "d"),
    "training_ms": ("training (ms)", "d"),
    "workers": ("workers", "d"),
    "first_s": ("first round done (s)", ".1f"),
    "rounds_a_s": ("rounds a second", ".1f"),
    "task_ms": ("time of a task (ms)", ".2f"),
    "rss_mb": ("controller's peak (MB)", ".0f"),
}


class Spins(Learner):
    """Holds the lock of its process for some milliseconds of CPU, and adds a little."""

    def __init__(self, number: int, *, training_ms: float) -> None:
        super().__init__(num_training_examples=1 + number % 10)
        self.number, self.training_ms = number, training_ms

    def get_weights(self) -> Weights:
        return [np.zeros(PARAMETERS, np.float32)]

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        until = time.thread_time() + self.training_ms / 1e3
        while time.thread_time() < until:
            pass
        return [parameters[0] + np.float32(1 / (1 + self.number))], {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class Case:
    learners: int
    cohort: int
    training_ms: int
    workers: int
    rounds: int


async def run_once(case: Case) -> tuple[float, float, float, bytes]:
    """Run a federation; seconds until its first round was done, and for each of the others, peak memory, the model."""
    config = ControllerConfig(participation_ratio=case.cohort / case.learners, evaluate_every=0)
    make_learner = partial(Spins, training_ms=case.training_ms)
    simulation = Simulation(make_learner, learners=case.learners, workers=case.workers)
    controller, signals = Controller(controller_config=config), TerminationSignals(federation_rounds=case.rounds)
    session, ends, began = DriverSession(controller, simulation, signals), list[float](), time.perf_counter()

    async def watch() -> None:
        async for event in session.events():
            if isinstance(event, RoundFinished):
                ends.append(time.perf_counter())

    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        group.create_task(watch())
        result = await session.run()
    assert all(len(record.participants) == case.cohort for record in result.rounds)
    assert result.final_model is not None
    return (
        ends[0] - began,
        (ends[-1] - ends[0]) / (case.rounds - 1),
        peak_rss_mb(),
        np.asarray(result.final_model[0]).tobytes(),
    )


def measure(case: Case) -> tuple[float, float, float, bytes]:
    return asyncio.run(run_once(case))


def main() -> None:
    run = Run(__doc__)
    table, models = run.table("simulating", COLUMNS), set[bytes]()
    rounds = 3 if run.is_quick else 20
    cases = [Case(1_000, 50, training_ms, workers, rounds) for training_ms in (0, 10) for workers in (1, 2)]
    if not run.is_quick:
        cases.append(Case(100_000, 50, 0, 2, rounds))
    for case in cases:
        first_s, round_s, rss_mb, model = in_fresh_process(measure, case)
        table.add(
            learners=case.learners,
            cohort=case.cohort,
            training_ms=case.training_ms,
            workers=case.workers,
            first_s=first_s,
            rounds_a_s=1 / round_s,
            task_ms=round_s / case.cohort * 1e3,
            rss_mb=rss_mb,
        )
        if case.learners == 1_000:
            models.add(model)
    assert len(models) == 1
    run.end()


if __name__ == "__main__":
    main()
