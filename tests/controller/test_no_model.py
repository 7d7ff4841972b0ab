"""A federation whose model would not be finite: it says so, and publishes none."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from federations import PATIENCE_S, Adds

from metisfl_async import Controller, ControllerConfig, DriverSession, Model, ServerParams, TerminationSignals
from metisfl_async.core.model import Array
from metisfl_async.errors import NoModel
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.strategies import FedAvg, FedAvgM, FedBuff

ROUNDS = TerminationSignals(federation_rounds=5)


class Far(Adds):
    """Gives what is still a float32, and as large as one can be; so many times."""

    def __init__(self, times: int = 1000, size: int = 1) -> None:
        super().__init__(1, size)
        self.times = times

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.times -= 1
        if self.times < 0:
            return super().train(parameters, config)
        parameters[0][...] = 3e38
        return parameters, {}


def session_of(config: ControllerConfig, *learners: Adds, signals: TerminationSignals = ROUNDS) -> DriverSession:
    return DriverSession(Controller(ServerParams(), config), list(learners), signals)


@pytest.mark.parametrize("size", [1, 300_000], ids=["on the loop", "in a thread"])
async def test_momentum_that_overflows_ends_as_a_failure_and_not_as_a_success_with_nan(size: int) -> None:
    config = ControllerConfig(aggregation_rule=FedAvgM(learning_rate=4.0))
    session = session_of(config, Adds(1, size), Far(size=size))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(NoModel, match="3 times in a row; last: FedAvgM made a model that cannot be published"):
            await session.run()
    result = session.result
    assert result is not None
    assert result.final_model is not None
    assert np.isfinite(result.final_model[0]).all()
    assert [record.is_published for record in result.rounds] == [False] * 3
    assert all("tensor '0' holds a value that is not finite" in record.failure for record in result.rounds)
    assert {part.train_state for record in result.rounds for part in record.learners.values()} == {"rejected"}


async def test_who_did_it_once_does_not_spoil_the_rounds_after() -> None:
    config = ControllerConfig(aggregation_rule=FedAvgM(learning_rate=4.0, momentum=0.0))
    session = session_of(config, Adds(1), Far(times=2))
    async with asyncio.timeout(PATIENCE_S):
        result = await session.run()
    assert [record.is_published for record in result.rounds] == [False, False, *[True] * 5]
    assert result.final_model is not None
    np.testing.assert_array_equal(result.final_model[0], [5 * 4.0])


async def test_without_rounds_it_is_the_same() -> None:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule=FedBuff(1, learning_rate=4.0))
    session = session_of(config, Far(), signals=TerminationSignals(global_updates=5))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(NoModel, match="3 times in a row; last: FedBuff made a model"):
            await session.run()


class OfYourOwn(FedAvg):
    """A rule that knows when it has no answer."""

    def aggregate(self, version: int) -> Model:
        if version == 2:
            raise NoModel("two is not for me")
        return super().aggregate(version)


async def test_a_rule_of_your_own_may_say_that_there_is_no_model() -> None:
    session = session_of(ControllerConfig(aggregation_rule=OfYourOwn()), Adds(1), Adds(2))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(NoModel, match="last: two is not for me"):
            await session.run()
    assert session.result is not None
    assert session.result.model_version == 1
