"""Opening, closing and ending a controller, whoever interferes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, until
from puppet import FEDERATION, begun, puppet, weights

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.controller import farewell
from metisfl_async.controller.registry import Member
from metisfl_async.core.access import LOCAL
from metisfl_async.core.errors import ProtocolError, TransportError
from metisfl_async.core.federation.commands import StartTimer
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, ModelRef, Token
from metisfl_async.core.messages import Afterwards, ControllerMessage, Farewell, Hello, JoinRequest, StartRequest
from metisfl_async.core.model import Model
from metisfl_async.testing import run
from metisfl_async.transport.grpc_options import SERVICE

ROUND = TerminationSignals(federation_rounds=1)
QUICKLY_S = 20.0  #: a hang fails after this, where a hang is what is looked for


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
        await until(lambda: not controller.snapshot().connected)
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
            (await of.fetch_model(LOCAL, learner.token, ModelRef(FEDERATION, 0))).moved(1)
            now = 0.8
            assert not (await asyncio.wait([shutting], timeout=1.2))[0]
            (await of.fetch_model(LOCAL, learner.token, ModelRef(FEDERATION, 0))).moved(
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
        call = learner.link._caller.channel.stream_stream(f"/{SERVICE}/{method}")(
            metadata=learner.link._caller.metadata_with(learner.token)
        )
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


@pytest.mark.slow
async def test_nobody_is_given_up_for_what_was_not_read_while_the_loop_stood_still() -> None:
    config = ControllerConfig(heartbeat_secs=0.5, lease_secs=2.0)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:
        registry = controller._open.registry
        async with puppet(controller, "a"):
            silent, looks = registry.silent, list[list[Member]]()

            def looking(lease_s: float) -> list[Member]:
                looks.append(silent(lease_s))
                return looks[-1]

            registry.silent = looking  # type: ignore[method-assign]
            await until(lambda: bool(looks))
            time.sleep(1.5 * config.lease_secs)  # noqa: ASYNC251 - the loop stands still
            looks.clear()
            await until(lambda: bool(looks))
            assert looks[0] == []
            assert registry.get(LearnerId("a")) is not None
            await until(lambda: registry.get(LearnerId("a")) is None)  # it says nothing, and the loop runs


def store_in(directory: Path) -> ModelStoreConfig:
    return ModelStoreConfig(model_store="Disk", directory=directory)


@pytest.mark.parametrize(
    ("is_begun", "is_durable", "then"),
    [(True, False, Afterwards.LEAVE), (True, True, Afterwards.RETURN), (False, False, Afterwards.RETURN)],
    ids=["its federation is lost", "its federation goes on", "nothing has run"],
)
def test_a_controller_that_closes_says_whether_it_may_be_back(
    is_begun: bool, is_durable: bool, then: Afterwards, tmp_path: Path
) -> None:
    async def main() -> list[ControllerMessage]:
        said: list[ControllerMessage] = []
        async with Controller(None, None, store_in(tmp_path) if is_durable else None) as controller:
            link = controller.connect()
            if is_begun:
                await begun(link, Model.from_arrays(weights(0)), num_learners=2)
            joined = await link.join(JoinRequest(LearnerId("a"), Token("")))
            async with link.tasks() as stream, asyncio.TaskGroup() as group:
                await stream.send(Hello(joined.token))
                said += await stream.receive() or []
                group.create_task(controller.close())
                while (messages := await stream.receive()) is not None:
                    said += messages
        return said

    (farewell_,) = (message for message in run(main()) if isinstance(message, Farewell))
    assert farewell_.then is then


async def test_learners_of_a_federation_that_is_lost_with_its_controller_end() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with asyncio.timeout(QUICKLY_S), asyncio.TaskGroup() as group:
        async with Controller(ServerParams()) as controller:
            taking_part = group.create_task(run_learner(learner, controller.client_params, learner_id="a"))
            session = DriverSession(controller.client_params, 1, ROUND, initial_weights=weights(0), lost_secs=0.1)
            running = asyncio.create_task(session.run())
            await learner.is_training.wait()
        await taking_part
        await asyncio.wait([running])
        assert isinstance(running.exception(), TransportError)
