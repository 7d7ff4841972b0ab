"""A driver whose controller was started again: what the new one knows nothing of is no success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop
from puppet import weights

from metisfl_async import (
    Controller,
    DriverSession,
    MetisError,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.controller import service
from metisfl_async.core.errors import ConnectionLost, UnknownFederation, WrongProtocol
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import NO_FEDERATION, FederationId
from metisfl_async.core.messages import PROTOCOL, Status
from metisfl_async.driver import session as module
from metisfl_async.transport.grpc_link import GrpcLink

ROUND = TerminationSignals(federation_rounds=1)


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
        assert session.result.reason == "it is not over"
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


async def _is_untouched(controller: Controller) -> None:
    link = controller.connect()
    assert await link.status() == Status(NO_FEDERATION)
    await link.close()
    assert controller._open.service.farewells.message is None
    assert not controller._open.main.done()


async def test_a_driver_of_another_release_is_refused_and_both_versions_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "PROTOCOL", 77)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        match = f"the driver speaks version {PROTOCOL} of the protocol, this side version 77; install the same release"
        with pytest.raises(WrongProtocol, match=match):
            await DriverSession(controller.client_params, 1, ROUND).run()
        await _is_untouched(controller)
