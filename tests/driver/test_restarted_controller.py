"""A driver whose controller was started again: what the new one knows nothing of is no success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, until
from puppet import FEDERATION, weights

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    MetisError,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.errors import (
    ConnectionLost,
    TransportError,
    UnexpectedMessage,
    UnknownFederation,
    WrongProtocol,
)
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import NO_FEDERATION, FederationId
from metisfl_async.core.messages import PROTOCOL, StartRequest, Status
from metisfl_async.driver import session as module
from metisfl_async.transport.grpc_link import GrpcLink

ROUND = TerminationSignals(federation_rounds=1)
QUICKLY_S = 20.0  #: a hang fails after this, where a hang is what is looked for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("comes_back", "error"), [(True, UnknownFederation), (False, ConnectionLost)], ids=["started again", "gone"]
)
async def test_a_controller_that_is_lost_before_the_result_is_collected_is_an_error(
    comes_back: bool, error: type[MetisError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOST_S", PATIENCE_S if comes_back else 0.3)
    get_logs = GrpcLink.get_logs
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        first = await stack.enter_async_context(Controller(ServerParams()))
        params = first.client_params
        second = Controller(ServerParams(port=params.port))

        async def lose_and_get_logs(link: GrpcLink, meant: FederationId) -> AsyncIterator[RoundRecord]:
            await first.close()
            if comes_back and not second.is_open:
                await stack.enter_async_context(second)
            async for record in get_logs(link, meant):
                yield record

        monkeypatch.setattr(GrpcLink, "get_logs", lose_and_get_logs)
        taking_part = asyncio.create_task(run_learner(Adds(1), params))
        session = DriverSession(params, 1, ROUND, initial_weights=weights(0), lost_secs=1)
        with pytest.raises(error):
            await session.run()
        assert session.result is not None
        assert session.result.reason == "federation_rounds=1 reached"
        assert session.result.model_version == 1
        assert [record.number for record in session.result.rounds] == [1]
        if comes_back:
            await _is_untouched(second)
        taking_part.cancel()
        await asyncio.wait([taking_part])


async def test_a_controller_that_was_started_again_in_the_middle_is_an_error_as_well() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        first = await stack.enter_async_context(Controller(ServerParams()))
        params = first.client_params
        taking_part = asyncio.create_task(run_learner(learner, params))
        session = DriverSession(params, 1, ROUND, initial_weights=weights(0), lost_secs=1)
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        await first.close()
        async with Controller(ServerParams(port=params.port)) as second:
            with pytest.raises((UnknownFederation, ConnectionLost)):  # as it dies, and when it is asked
                await running
            await _is_untouched(second)
            taking_part.cancel()
            await asyncio.wait([taking_part])


async def test_a_driver_gives_up_a_controller_that_died_and_is_not_started_again() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with asyncio.timeout(QUICKLY_S):
        controller = await Controller(ServerParams()).__aenter__()
        dial = controller.client_params
        taking_part = asyncio.create_task(run_learner(learner, dial))
        session = DriverSession(dial, 1, ROUND, initial_weights=weights(0), lost_secs=0.3)
        first = asyncio.create_task(session.run())
        await learner.is_training.wait()
        second = asyncio.create_task(DriverSession.attach(dial, lost_secs=0.3).run())
        await until(lambda: controller._open.service._drivers == 2)
        await controller.abort()
        await asyncio.wait([first, second])
        taking_part.cancel()
        await asyncio.wait([taking_part])
    for running in (first, second):
        assert isinstance(running.exception(), TransportError)


async def _is_untouched(controller: Controller) -> None:
    link = controller.connect()
    assert await link.status() == Status(NO_FEDERATION)
    await link.close()
    assert controller._open.service.farewells.message is None
    assert not controller._open.main.done()


async def test_a_driver_of_another_release_is_refused_and_both_versions_are_named() -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        match = f"the driver speaks version 77 of the protocol, this side version {PROTOCOL}; install the same release"
        link = GrpcLink(controller.client_params)
        with pytest.raises(WrongProtocol, match=match):
            await link.start_training(StartRequest(ROUND, 1, 0, None, FEDERATION, protocol=77))
        await link.close()
        await _is_untouched(controller)


async def test_a_federation_goes_on_as_its_first_driver_said(tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    async with asyncio.timeout(PATIENCE_S), Controller(None, ControllerConfig(), store) as controller:
        first = asyncio.create_task(
            DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=10**6)).run()
        )
        await until(lambda: controller._open.service._jobs.current is not None)
        with pytest.raises(ConfigError, match=r"termination_signals is .*: those of the federation that goes on"):
            await DriverSession(controller, [Adds(2)], ROUND).run(resume=True)
        with pytest.raises(UnexpectedMessage, match=r"runs here; one ends before .* To go on with it"):
            await DriverSession(controller, [Adds(2)], ROUND).run()
        first.cancel()
        await asyncio.wait([first])


async def test_a_controller_that_resumed_for_one_session_does_not_resume_for_the_next_unasked(tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    controller, learner = Controller(None, ControllerConfig(), store), AddsOnLoop(1)
    learner.may_train.clear()
    async with asyncio.timeout(PATIENCE_S):
        first = asyncio.create_task(DriverSession(controller, [learner], ROUND).run(resume=True))
        await learner.is_training.wait()
        await controller.abort()
        with pytest.raises(ConnectionLost):
            await first
        with pytest.raises(ConfigError, match="resume is False; allowed: True, to go on with federation"):
            await DriverSession(controller, [Adds(1)], ROUND).run()
        result = await DriverSession(controller, [Adds(1)], ROUND).run(resume=True)
    assert result.reason == "federation_rounds=1 reached"
