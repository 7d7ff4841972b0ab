"""What a session says of a run that goes on, or ended before its end."""

from __future__ import annotations

import asyncio

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, until

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.federation.events import LearnerJoined, RoundFinished
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver.reached import Reached
from metisfl_async.store.event_log import KEPT


def test_other_events_push_no_round_out() -> None:
    reached = Reached(None)
    reached.note(RoundFinished(RoundRecord(1, 0)))
    for number in range(KEPT + 1):
        reached.note(LearnerJoined("a", number))
    assert [record.number for record in reached.result().rounds] == [1]


async def test_why_a_run_ended_that_was_interrupted_or_failed() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params))
        session = DriverSession(controller.client_params, 1, TerminationSignals(federation_rounds=1), lost_secs=0.5)
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        assert session.result is not None
        assert session.result.reason == "it is not over"
        await controller.close()
        with pytest.raises(ConnectionLost):
            await running
        assert session.result.reason.startswith("ConnectionLost: ")
        taking_part.cancel()
        await asyncio.wait([taking_part])


@pytest.mark.slow
async def test_a_process_that_is_new_was_never_trained() -> None:
    learner = Adds(1)
    for _ in range(2):
        session = DriverSession(Controller(None), [learner], TerminationSignals(federation_rounds=1), worker="process")
        result = await session.run()
        assert result.first_weights.endswith("as made")


async def test_a_controller_that_was_kept_running_waits_for_the_next_driver() -> None:
    config = ControllerConfig(driver_lost_secs=0.1, on_driver_lost="stop")
    signals = TerminationSignals(federation_rounds=1)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:
        taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params))
        await DriverSession(controller.client_params, 1, signals, keep_running=True).run()
        service = controller._open.service
        service._driver_at -= 3600  # an hour later
        await asyncio.sleep(0)
        looked = service._clock()
        await until(lambda: service._clock() > looked + 0.1)  # it looks every eighth of driver_lost_secs
        assert not controller._open.main.done()
        assert not taking_part.done()
        await DriverSession(controller.client_params, 1, signals).run()
        await taking_part
        await controller.serve()
