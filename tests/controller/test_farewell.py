"""The end has a bound in all, whatever learners do, and connections that call nothing are closed."""

from __future__ import annotations

import asyncio
import logging

import grpc.aio
import pytest
from puppet import FEDERATION, begun, puppet, weights

from metisfl_async import Controller, ControllerConfig, ServerParams
from metisfl_async.controller import farewell as farewell_module
from metisfl_async.core.messages import Farewell
from metisfl_async.core.model import Model
from metisfl_async.transport import grpc_host
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.grpc_options import SERVER_OPTIONS


async def test_who_gets_on_with_the_final_model_for_ever_does_not_keep_the_end_from_coming(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    config = ControllerConfig(evaluate_every=0, farewell_timeout_secs=0.5)
    async with Controller(ServerParams(), config) as controller:
        link = controller.connect()
        await begun(link, Model.from_arrays(weights(0)))
        async with puppet(controller, "a") as learner:
            farewells, sent = controller._open.service.farewells, 0
            ending = asyncio.create_task(link.shut_down(FEDERATION))
            while not isinstance(await learner.next(), Farewell):
                pass
            async with asyncio.timeout(30):
                while not ending.done():
                    sent += 1
                    farewells.moved(next(iter(controller._open.registry)).id, sent)
                    await asyncio.sleep(0.01)
            await ending
        await link.close()
    assert "farewell_timeout_secs=0.5" in caplog.text


async def test_who_joins_after_the_farewell_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell_module, "AWAY_S", 0.5)
    async with Controller(ServerParams(), ControllerConfig(evaluate_every=0)) as controller:
        link = controller.connect()
        await begun(link, Model.from_arrays(weights(0)), num_learners=9)
        async with puppet(controller, "a") as learner:
            ending = asyncio.create_task(link.shut_down(FEDERATION))
            while not isinstance(await learner.next(), Farewell):
                pass
            async with puppet(controller, "stranger") as stranger:
                while not isinstance(await stranger.next(), Farewell):
                    pass
                await learner.link.leave(learner.token)
                async with asyncio.timeout(10):
                    await ending  # although the stranger stays
        await link.close()


async def test_a_connection_that_calls_nothing_is_closed_and_one_with_a_call_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soon = [(name, 200 if name == "grpc.max_connection_idle_ms" else value) for name, value in SERVER_OPTIONS]
    assert soon != SERVER_OPTIONS
    monkeypatch.setattr(grpc_host, "SERVER_OPTIONS", soon)
    async with Controller(ServerParams()) as controller:
        idle = GrpcLink(controller.client_params)
        async with puppet(controller, "a") as learner:
            busy = learner.link._caller.channel
            await idle.status()
            channel = idle._caller.channel
            async with asyncio.timeout(30):
                while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
            assert busy.get_state() is grpc.ChannelConnectivity.READY
            await idle.status()  # dials again
        await idle.close()
