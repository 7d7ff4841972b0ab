"""Opening, closing and ending a controller, whoever interferes."""

from __future__ import annotations

import asyncio

import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind, until
from puppet import FEDERATION, begun, puppet, weights

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.controller import farewell
from metisfl_async.core.errors import ProtocolError
from metisfl_async.core.federation.commands import StartTimer
from metisfl_async.core.ids import NO_FEDERATION, FederationId, ModelRef
from metisfl_async.core.messages import Farewell, StartRequest
from metisfl_async.core.model import Model
from metisfl_async.transport.grpc_options import SERVICE

ROUND = TerminationSignals(federation_rounds=1)


async def test_opened_twice_at_one_time_it_opens_once() -> None:
    async with nothing_left_behind():
        controller = Controller(ServerParams())
        first, second = await asyncio.gather(controller.__aenter__(), controller.__aenter__(), return_exceptions=True)
        assert first is controller
        assert isinstance(second, ProtocolError)
        await controller.close()


async def test_cancelled_while_it_opens_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    kept = []  # what is freed only because nobody holds it is not closed
    async with nothing_left_behind():
        for steps in range(1000):
            controller = Controller(ServerParams())
            kept.append(controller)
            opening = asyncio.create_task(controller.__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            await controller.close()
            if not opening.cancelled():
                break
        assert steps > 1
    assert "invalid state" not in caplog.text


async def test_cancelled_while_it_closes_it_closes_all_the_same() -> None:
    async with nothing_left_behind():
        for steps in range(1, 1000):
            controller = Controller(ServerParams())
            await controller.__aenter__()
            closing = asyncio.create_task(controller.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            if not closing.cancelled():
                break
        assert steps > 1


async def test_a_port_can_be_had_again_at_once() -> None:
    async with Controller(ServerParams()) as controller, puppet(controller, "a"):
        params = controller.client_params
    async with Controller(ServerParams(port=params.port)) as controller:
        assert controller.client_params == params


async def test_a_learner_whose_connection_breaks_at_the_end_still_hears_the_farewell() -> None:
    async with Controller(ServerParams()) as controller:
        async with puppet(controller, "a") as learner:
            pass
        await until(lambda: all(member.connection is None for member in controller._open.registry))
        link = controller.connect()
        shutting = asyncio.create_task(link.shut_down(NO_FEDERATION))
        await until(lambda: controller._open.service.farewells.message is not None)
        async with puppet(controller, "a", learner.token) as learner:
            assert isinstance(await learner.next(), Farewell)
            await learner.link.leave(learner.token)
        await shutting
        await link.close()
        await controller.serve()


async def test_a_learner_that_comes_after_the_end_is_told_so_and_not_kept_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(farewell, "AWAY_S", 0.01)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = controller.connect()
        await link.shut_down(NO_FEDERATION)
        await link.close()
        await controller.serve()
        await run_learner(Adds(1), controller.client_params)  # returns


async def test_the_farewell_takes_as_long_as_a_learner_gets_further_in_the_final_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(farewell, "AWAY_S", 0.0)  # over before the learner hears of the farewell
    monkeypatch.setattr(farewell, "FAREWELL_S", 0.5)
    now = 0.0
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link, of = controller.connect(), controller._open.service
        monkeypatch.setattr(of.farewells, "_clock", lambda: now)
        await begun(link, Model.from_arrays(weights(0)), num_learners=2)
        async with puppet(controller, "a") as learner:
            shutting = asyncio.create_task(link.shut_down(FEDERATION))
            while not isinstance(await learner.next(), Farewell):
                pass
            now = 0.4
            (await of.fetch_model(learner.token, ModelRef(FEDERATION, 0))).moved(1)
            now = 0.8
            assert not (await asyncio.wait([shutting], timeout=1.2))[0]
            (await of.fetch_model(learner.token, ModelRef(FEDERATION, 0))).moved(
                1
            )  # from the beginning again: that may have no end
            now = 1.0
            await shutting
        await link.close()
        await controller.serve()


async def test_a_cancelled_driver_ends_the_federation_on_a_controller_that_stays_open() -> None:
    async with Controller(ServerParams()) as controller:
        learner = asyncio.create_task(run_learner(Adds(1), controller.client_params))
        session = DriverSession(controller, 1, TerminationSignals(execution_cutoff_time_mins=10))
        running = asyncio.create_task(session.run())
        async for _ in session.events():
            break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await controller.serve()
        await learner


@pytest.mark.parametrize("method", ["TrainDone", "SetInitialModel"])
async def test_a_stream_on_which_nothing_comes_is_ended(method: str) -> None:
    config = ControllerConfig(upload_idle_secs=0.1)
    async with Controller(ServerParams(), config) as controller, puppet(controller, "a") as learner:
        call = learner.link._caller.channel.stream_stream(f"/{SERVICE}/{method}")()
        assert "upload_idle_secs=0.1" in await call.details()


async def test_what_happens_while_it_closes_starts_no_timer() -> None:
    async with Controller() as controller:
        await controller.connect().start_training(StartRequest(ROUND, 1, 0, None, FederationId("f")))
        of_controller = controller._open.service
        of_controller.closing.set()
        await controller.serve()
        dispatcher = controller._open.job._dispatcher
        dispatcher._act([StartTimer("gather", 600.0)])
        assert not dispatcher._timers
