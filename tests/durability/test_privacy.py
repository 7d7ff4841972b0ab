from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from durability.in_process import Counts
from federations import PATIENCE_S, until

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.strategies.privacy import epsilon_of
from metisfl_async.strategies import PrivateAverage


async def test_a_controller_that_died_goes_on_counting_what_is_spent(tmp_path: Path, free_port: int) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    server, dial = ServerParams(port=free_port), ClientParams(port=free_port)
    rule = PrivateAverage(1.0, 2.0, 2, 1e-5)
    config = ControllerConfig(aggregation_rule=rule, scaling_factor="NumParticipants")
    learners = [Counts(1), Counts(2)]
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        first = await Controller(server, config, store).__aenter__()
        for index, learner in enumerate(learners):
            group.create_task(run_learner(learner, dial, learner_id=f"site-{index}"))
        weights = [np.zeros(1, np.float32), np.array(0, np.int64)]
        signals = TerminationSignals(federation_rounds=6)
        running = group.create_task(DriverSession(dial, 2, signals, initial_weights=weights).run())
        await until(lambda: len(learners[0].trained) >= 3)
        await first.abort()
        async with Controller(server, config, store, resume=True):
            result = await running
    published = [record for record in result.rounds if record.is_published]
    assert [record.privacy["releases"] for record in published] == [1, 2, 3, 4, 5, 6]
    assert published[-1].privacy["epsilon"] == epsilon_of(2.0, 6, 1e-5)
