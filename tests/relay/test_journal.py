"""A relay with a durable store that dies goes on with its open round, and nobody below trains again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, until
from puppet import weights
from relay.regions import offer, top

from metisfl_async import (
    ClientParams,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    Relay,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.federation.events import UpdateCounted
from metisfl_async.core.model import Model
from metisfl_async.relay.below import Below

PARENT = ClientParams("localhost", 1)  # where nobody is
MODEL = Model.from_arrays(weights(0))


class North:
    """A relay's place: its address, its store, and two learners, one of which trains for as long as it has to."""

    def __init__(self, parent: ClientParams, port: int, directory: Path) -> None:
        self._parent, self._params = parent, ServerParams(port=port)
        self._store = ModelStoreConfig(model_store="Disk", directory=directory)
        self.quick, self.slow = Adds(1), AddsOnLoop(2)
        self.slow.may_train.clear()

    def relay(self) -> Relay:
        """Make it, as it is made each time that it is started."""
        config, store = ControllerConfig(min_learners=2), self._store
        return Relay(config, self._params, parent=self._parent, relay_id="north", model_store_config=store)

    @asynccontextmanager
    async def dying(self) -> AsyncIterator[Below]:
        """Run it until the end of the block, where it is killed."""
        async with self.relay() as relay:
            running = asyncio.create_task(relay.run())
            yield relay._region.below
            running.cancel()
            await asyncio.wait([running])
            await relay._region.below.abort()

    async def learn(self) -> None:
        """Let its learners take part, whenever it is there."""
        params = self._params.client_params(self._params.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(run_learner(self.quick, params, learner_id="quick"))
            group.create_task(run_learner(self.slow, params, learner_id="slow"))

    @property
    def times_trained(self) -> tuple[int, int]:
        return len(self.quick.configs), len(self.slow.configs)


async def counted_in(below: Below) -> list[str]:
    """Wait until the federation below is over: whose updates counted, that it knows of."""
    return sorted([event.learner async for event in below.events() if isinstance(event, UpdateCounted)])


async def test_a_relay_that_died_in_the_middle_of_a_round_goes_on_with_it(tmp_path: Path, free_port: int) -> None:
    async with top(1) as controller, asyncio.TaskGroup() as group:
        north = North(controller.client_params, free_port, tmp_path)
        group.create_task(north.learn())
        signals = TerminationSignals(federation_rounds=2)
        running = group.create_task(DriverSession(controller, 1, signals).run())
        async with north.dying() as below:
            await until(lambda: below.snapshot().folded == ("quick",))
        async with north.relay() as again:
            ending = group.create_task(again.run())
            await until(lambda: again._region.below.snapshot().folded == ("quick",))
            north.slow.may_train.set()
            await ending
        result = await running
    first, second = result.rounds
    assert first.contributors == second.contributors == {"north/quick": 1, "north/slow": 1}
    assert first.learners["north"].failures == []
    assert north.times_trained == (2, 2)
    assert result.final_model is not None
    assert result.final_model[0][0] == pytest.approx(2 * np.float32(5 / 3))


@pytest.mark.parametrize("is_away", [False, True], ids=["later", "meanwhile"])
async def test_a_sum_that_counts_after_its_relay_died_counts_below(
    tmp_path: Path, free_port: int, is_away: bool
) -> None:
    south = AddsOnLoop(3)
    south.may_train.clear()
    async with top(2) as controller, asyncio.TaskGroup() as group:
        north = North(controller.client_params, free_port, tmp_path)
        north.slow.may_train.set()
        group.create_task(north.learn())
        group.create_task(run_learner(south, controller.client_params, learner_id="south"))
        signals = TerminationSignals(federation_rounds=1)
        running = group.create_task(DriverSession(controller, 2, signals).run())
        async with north.dying():
            await until(lambda: controller.snapshot().folded == ("north",))
        if is_away:
            south.may_train.set()
            await until(lambda: controller.snapshot().model_version == 1)
        async with north.relay() as again:
            counting = group.create_task(counted_in(again._region.below))
            ending = group.create_task(again.run())
            await until(lambda: "north" in controller.snapshot().connected)
            south.may_train.set()
            await ending
            assert await counting == ["quick", "slow"]
        result = await running
    (record,) = result.rounds
    assert (record.participants, record.learners["north"].failures) == (["north", "south"], [])
    assert record.learners["north"].evaluation_metrics
    assert north.times_trained == (1, 1)


async def test_a_round_goes_on_for_another_task_with_the_same_model(tmp_path: Path, free_port: int) -> None:
    north = North(PARENT, free_port, tmp_path)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(north.learn())
        async with north.relay() as relay:
            training = group.create_task(relay._region.below.train(MODEL, offer("1")))
            await until(lambda: relay._region.below.snapshot().folded == ("quick",))
            training.cancel()
        async with north.relay() as again:
            below = again._region.below
            assert below.held == offer("1")
            below.settled(offer("1").task_id, "it was away for too long")
            north.slow.may_train.set()
            summed = await below.train(MODEL, offer("2"))
            assert summed.sum.arrays()[0][0] == 5.0
            assert north.times_trained == (1, 1)
            await below.end(None, keep_running=False)


async def test_a_sum_that_is_there_before_its_task_is_known_to_be_over_is_taken_back(
    tmp_path: Path, free_port: int
) -> None:
    north = North(PARENT, free_port, tmp_path)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(north.learn())
        async with north.relay() as relay:
            training = group.create_task(relay._region.below.train(MODEL, offer("1")))
            await until(lambda: relay._region.below.snapshot().folded == ("quick",))
            training.cancel()
        north.slow.may_train.set()
        async with north.relay() as again:
            below = again._region.below
            await until(lambda: below._swaps.summed is not None)
            below.settled(offer("1").task_id, "it was away for too long")
            await below.train(MODEL, offer("2"))
            assert north.times_trained == (2, 2)
            await below.end(None, keep_running=False)
