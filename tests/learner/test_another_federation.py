"""A learner outlives federations and their controllers, and takes nothing of one into the next."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, until
from puppet import weights

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.core.federation.events import FederationFinished, LearnerJoined
from metisfl_async.core.ids import NO_FEDERATION, FederationId
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Model
from metisfl_async.transport.base import ControllerLink

ROUND = TerminationSignals(federation_rounds=1)
CONFIG = ControllerConfig(heartbeat_secs=0.1, lease_secs=2.0, evaluate_every=0)


class Remembers(AddsOnLoop):
    """Remembers where each training began."""

    def __init__(self) -> None:
        super().__init__(1)
        self.began_at: list[float] = []

    async def train(self, parameters, config):  # type: ignore[no-untyped-def,override]
        self.began_at.append(float(parameters[0][0]))
        return await super().train(parameters, config)


@pytest.mark.parametrize("when", ["training", "folded"])
async def test_a_learner_that_outlives_its_controller_begins_with_the_weights_of_the_next_federation(when: str) -> None:
    """Both federations have a version 0; what was fetched and trained in the first one is worth nothing."""
    learner = Remembers()
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        first = await stack.enter_async_context(Controller(ServerParams(), CONFIG))
        params = first.client_params
        taking_part = asyncio.create_task(run_learner(learner, params, learner_id="a"))
        stack.callback(taking_part.cancel)
        other = AddsOnLoop(1)  # which never trains: the update of the first waits to be counted
        other.may_train.clear()
        dies_too = asyncio.create_task(run_learner(other, params, learner_id="b"))
        if when == "training":
            learner.may_train.clear()
        session = DriverSession(params, 2, ROUND, initial_weights=weights(1.0))
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        await other.is_training.wait()
        if when == "folded":
            await until(lambda: bool(first._open.job.federation.ledger.folded))
        await first.abort()
        for task in (running, dies_too):
            task.cancel()
            await asyncio.wait([task])
        async with Controller(ServerParams(port=params.port), CONFIG) as second:
            running = asyncio.create_task(DriverSession(second, 1, ROUND, initial_weights=weights(100.0)).run())
            await until(lambda: len(learner.began_at) == 2)
            learner.may_train.set()
            result = await running
        await taking_part
    assert result.final_model is not None
    assert result.final_model[0] == [101.0]
    assert learner.began_at == [1.0, 100.0]
    assert [float(taken[0][0]) for taken in learner.taken_over] == [1.0, 100.0, 101.0]
    assert len(result.rounds) == 1
    assert result.rounds[0].learners["a"].failures == []


async def train(link: ControllerLink, federation_id: str, begin: float) -> Model:
    """Run a federation of one round and one learner to its end."""
    of = FederationId(federation_id)
    await link.set_initial_model(of, Model.from_arrays(weights(begin)))
    await link.start_training(StartRequest(ROUND, 1, 0, None, of, has_model=True))
    events = [event async for event in link.watch_events(of)]
    assert [type(event) for event in events].count(LearnerJoined) == 1
    assert isinstance(events[-1], FederationFinished)
    assert [record.participants async for record in link.get_logs(of)] == [["a"]]
    return await link.get_model(of)


async def test_the_next_federation_trains_the_same_connected_learner_from_its_own_weights() -> None:
    learner = Adds(1)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), CONFIG) as controller:
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params, learner_id="a"))
        link = controller.connect()
        assert (await train(link, "first", 1.0)).arrays()[0] == [2.0]
        member = next(iter(controller._open.registry))
        await link.shut_down(FederationId("first"), keep_running=True)
        status = await link.status()
        assert (status.federation_id, status.is_finished) == ("first", True)
        assert (await train(link, "second", 100.0)).arrays()[0] == [101.0]
        assert [*controller._open.registry] == [member]
        assert member.incarnation == 1  # it stayed connected
        await link.shut_down(FederationId("second"))
        await link.close()
        await controller.serve()
        await taking_part
    assert [float(taken[0][0]) for taken in learner.taken_over] == [1.0, 2.0, 100.0, 101.0]


async def test_learners_wait_on_a_controller_that_was_kept_running_before_anything_ran() -> None:
    learner = Adds(1)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), CONFIG) as controller:
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params, learner_id="a"))
        await until(lambda: bool(controller.snapshot().connected))
        link = controller.connect()
        await link.shut_down(NO_FEDERATION, keep_running=True)
        assert (await train(link, "first", 1.0)).arrays()[0] == [2.0]
        await link.shut_down(FederationId("first"))
        await link.close()
        await taking_part
