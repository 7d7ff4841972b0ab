"""Free riders and twins are told of, and the one who spoils a model is named."""

from __future__ import annotations

import asyncio

import pytest
from federations import PATIENCE_S, Adds

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.model import Array
from metisfl_async.errors import NoModel
from metisfl_async.events import Event, UpdateRepeated
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.strategies import FedAvgM


class RidesFree(Adds):
    """Gives back what it got."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        return parameters, {}


class Far(Adds):
    """Gives what is still a float32."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        parameters[0][...] = 3e38
        return parameters, {}


async def run(config: ControllerConfig | None, *learners: Adds) -> tuple[FederationResult, list[Event]]:
    session = DriverSession(Controller(ServerParams(), config), list(learners), TerminationSignals(federation_rounds=2))
    async with asyncio.timeout(PATIENCE_S):
        result = await session.run()
        return result, [event async for event in session.events()]


@pytest.mark.parametrize("size", [1, 300_000], ids=["on the loop", "in a thread"])
async def test_who_gives_back_what_it_got_and_who_gives_the_same_are_told_of(size: int) -> None:
    result, events = await run(None, Adds(1, size), Adds(1, size), RidesFree(2, size))
    for record in result.rounds:
        first, second, free = record.learners.values()
        assert first.update_norm == pytest.approx(size**0.5, rel=1e-5)
        assert (free.update_norm, free.update_cosine, free.is_global, free.twin) == (0.0, None, True, None)
        assert first.update_cosine == second.update_cosine == pytest.approx(1.0, abs=1e-6)
        assert {first.twin, second.twin} in ({None, "learner-0"}, {None, "learner-1"})
    told = [event for event in events if isinstance(event, UpdateRepeated)]
    assert [event.number for event in told].count(1) == [event.number for event in told].count(2) == 2
    assert [event.learner for event in told if event.twin is None] == ["learner-2"] * 2


async def test_who_goes_another_way_has_another_cosine() -> None:
    result, events = await run(None, Adds(3), Adds(2), Backwards(1))
    for record in result.rounds:
        assert [part.update_cosine for part in record.learners.values()] == pytest.approx([1.0, 1.0, -1.0])
    assert not any(isinstance(event, UpdateRepeated) for event in events)


class Backwards(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        parameters[0] -= 1
        return parameters, {}


async def test_the_learner_that_makes_a_model_too_large_is_named() -> None:
    config = ControllerConfig(aggregation_rule=FedAvgM(learning_rate=10.0))
    with pytest.raises(NoModel, match=r"by far the most changes the update of learner-1 \(3e\+38\), the middle one 2"):
        await run(config, Adds(1), Far(1), Adds(2))
    with pytest.raises(NoModel, match="the only update is of learner-0"):
        await run(config, Far(1))
