"""A simulation on dask workers, which may be on other machines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import simulated
from distributed import Client
from federations import until

from metisfl_async import Controller, ControllerConfig, DriverSession, Simulation, TerminationSignals
from metisfl_async.events import UpdateCounted


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Start a scheduler and two workers, each a process."""
    where = str(tmp_path / "scheduler.json")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    scheduler = ["distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"]
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
    with ExitStack() as stack:
        for command in (scheduler, worker, worker):
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--scheduler-file", where],
                cwd=tmp_path,
                env=environment,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        while not Path(where).exists():
            time.sleep(0.01)
        client = stack.enter_context(Client(scheduler_file=where, timeout=60))
        client.wait_for_workers(2)
        yield client


async def counted(session: DriverSession) -> Counter[tuple[int, str]]:
    """Follow a run to its end; how many times each learner's update counted in each round."""
    times = Counter[tuple[int, str]]()
    async for event in session.events():
        if isinstance(event, UpdateCounted):
            times[event.number, event.learner] += 1
    return times


async def test_a_worker_that_is_killed_in_the_middle_of_a_round_costs_nothing(client: Client, tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    config = ControllerConfig(train_params={"directory": str(started)})
    simulation = Simulation(simulated.Waits, learners=20, executor=client.get_executor())
    session = DriverSession(Controller(controller_config=config), simulation, TerminationSignals(federation_rounds=2))
    async with asyncio.TaskGroup() as group:
        run = group.create_task(session.run())
        counting = group.create_task(counted(session))
        await until(lambda: len(list(started.iterdir())) == 2)
        os.kill(int(next(started.iterdir()).name), signal.SIGKILL)
        (started / "go").touch()
    assert counting.result() == Counter((number, f"learner-{index}") for number in (1, 2) for index in range(20))
    assert not any(part.failures for record in run.result().rounds for part in record.learners.values())
