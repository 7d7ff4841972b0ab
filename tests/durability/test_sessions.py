"""Drivers that come, go and come back; sessions one after another; and stopping that keeps the work."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from durability.in_process import Counts
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, until

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.model import Array

WEIGHTS: list[Array] = [np.zeros(1, np.float32), np.array(0, np.int64)]
ENDLESS = TerminationSignals(execution_cutoff_time_mins=10)


@pytest.mark.parametrize("over_grpc", [False, True])
async def test_cancelling_a_run_keeps_what_was_reached(over_grpc: bool) -> None:
    learners = [Counts(1), Counts(3)]
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S):
        session = DriverSession(Controller(ServerParams() if over_grpc else None), learners, ENDLESS)
        assert session.result is None
        running = asyncio.create_task(session.run())
        await until(lambda: session.result is not None and len(session.result.rounds) >= 2)
        assert session.result is not None
        assert session.result.reason == "it is not over"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    result = session.result
    assert result is not None
    assert result.final_model is not None
    assert result.reason == "the session was interrupted"
    assert result.model_version == len([record for record in result.rounds if record.is_published])
    for learner in learners:
        np.testing.assert_array_equal(learner.taken_over[-1][0], result.final_model[0])


async def test_a_time_limit_of_asyncio_keeps_what_was_reached() -> None:
    learner = AddsOnLoop(1)
    session = DriverSession(Controller(), [learner], ENDLESS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await session.run()
    assert session.result is not None
    assert session.result.final_model is not None


async def test_a_second_driver_follows_stops_and_fetches_the_result() -> None:
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group, Controller(ServerParams()) as controller:
        dial = controller.client_params
        attached = DriverSession.attach(dial)
        with pytest.raises(UnexpectedMessage, match="no federation runs at"):
            await attached.run()
        learner = group.create_task(run_learner(Counts(1), dial, learner_id="a"))
        first = group.create_task(DriverSession(dial, 1, ENDLESS, initial_weights=WEIGHTS, keep_running=True).run())
        await until(lambda: controller._open.jobs.current is not None)
        second = DriverSession.attach(dial)
        following = group.create_task(second.run())
        await until(lambda: (controller.snapshot().model_version or 0) >= 2)
        await DriverSession.attach(dial).stop("enough")
        mine, its = await following, await first
        assert mine.reason == its.reason == "enough"
        assert mine.final_model is not None
        assert its.final_model is not None
        np.testing.assert_array_equal(mine.final_model[0], its.final_model[0])
        assert mine.first_weights == "given"
        again = await DriverSession.attach(dial).run(shut_down=True)  # it has ended there; now all go
        assert again.reason == "enough"
        await learner
        await controller.serve()


async def test_sessions_one_after_another_use_the_same_learners() -> None:
    of_a = Counts(1)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group, Controller(ServerParams()) as controller:
        dial = controller.client_params
        learner = group.create_task(run_learner(of_a, dial, learner_id="a"))
        results = []
        for start in (0.0, 100.0, 200.0):
            weights: list[Array] = [np.full(1, start, np.float32), np.array(0, np.int64)]
            signals = TerminationSignals(federation_rounds=2)
            session = DriverSession(dial, 1, signals, initial_weights=weights, keep_running=start < 200.0)
            results.append(await session.run())
        await learner
    assert [result.final_model and float(result.final_model[0][0]) for result in results] == [2.0, 102.0, 202.0]
    assert of_a.trained == [0.0, 1.0, 100.0, 101.0, 200.0, 201.0]


@pytest.mark.parametrize("policy", ["finish", "stop"])
async def test_a_dead_driver_leaves_nobody_waiting(policy: str) -> None:
    config = ControllerConfig(on_driver_lost=policy, driver_lost_secs=0.4)  # type: ignore[arg-type]
    signals = TerminationSignals(federation_rounds=3) if policy == "finish" else ENDLESS
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:
        dial = controller.client_params
        learner = asyncio.create_task(run_learner(Counts(1), dial, learner_id="a"))
        link = controller.connect()
        session = DriverSession(dial, 1, signals, initial_weights=WEIGHTS)
        await session._begin(link, resume=False)  # and is never heard again
        await link.close()
        await learner
        await controller.serve()


async def test_a_learner_that_is_started_again_sends_what_is_in_its_spool(tmp_path: Path) -> None:
    class Slow(Counts):
        pass

    of_a, of_b = Slow(1), AddsOnLoop(2)
    of_b.may_train.clear()
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), ControllerConfig(lease_secs=20.0)) as controller:
        dial = controller.client_params
        first = asyncio.create_task(run_learner(of_a, dial, learner_id="a", spool_dir=tmp_path))
        other = asyncio.create_task(run_learner(of_b, dial, learner_id="b"))
        signals = TerminationSignals(federation_rounds=1)
        session = asyncio.create_task(DriverSession(dial, 2, signals, initial_weights=WEIGHTS).run())
        await until(lambda: len(list(tmp_path.glob("*.update"))) == 1)
        first.cancel()
        await asyncio.wait([first])
        again = Slow(1)
        second = asyncio.create_task(run_learner(again, dial, learner_id="a", spool_dir=tmp_path))
        await until(lambda: "a" in controller.snapshot().connected)
        of_b.may_train.set()
        result = await session
        await asyncio.gather(second, other)
    assert result.rounds[0].participants == ["a", "b"]
    assert of_a.trained == [0.0]
    assert again.trained == []
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # noqa: ASYNC240 - nobody else waits here


async def test_a_live_controller_that_is_kept_running_serves_the_next_session() -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params))
        for keep_running in (True, False):
            signals = TerminationSignals(federation_rounds=2)
            result = await DriverSession(controller, 1, signals, keep_running=keep_running).run()
            assert [record.number for record in result.rounds] == [1, 2]
        await taking_part
