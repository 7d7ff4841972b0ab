"""A link dials anew after every break: the connection from before may be forgotten on the way, and nobody says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, until
from proxy import Proxy, proxy_to
from puppet import FEDERATION, begun, weights

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.codec.frame import Header
from metisfl_async.controller.conversations import FEW_OWN_CONNECTION_BYTES
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.federation.events import LearnerJoined, LearnerLeft
from metisfl_async.core.ids import FederationId, LearnerId, Token
from metisfl_async.core.messages import Hello, JoinRequest
from metisfl_async.core.model import Model
from metisfl_async.driver import following
from metisfl_async.transport import grpc_link
from metisfl_async.transport.grpc_link import GrpcLink

pytestmark = pytest.mark.slow

ANYONE = JoinRequest(LearnerId(""), Token(""))


@asynccontextmanager
async def forgetful() -> AsyncIterator[tuple[Controller, Proxy, GrpcLink]]:
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        proxy_to(controller) as proxy,
    ):
        link = GrpcLink(proxy.params)
        try:
            yield controller, proxy, link
        finally:
            await link.close()


async def test_joining_again_dials_anew_though_the_first_connection_looks_alive() -> None:
    async with forgetful() as (_, proxy, link):
        await link.join(ANYONE)
        proxy.forget()
        await link.join(ANYONE)  # over the first one, it would time out
        assert proxy.connections == 2
        await until(lambda: len(proxy.writers) == 2)  # both ends of the second one; the first is closed


async def test_a_driver_dials_anew_when_the_controller_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE_S", 0.3)
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with forgetful() as (controller, proxy, _):
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params))
        session = DriverSession(proxy.params, 1, TerminationSignals(federation_rounds=1))
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        proxy.forget()
        await until(lambda: proxy.connections > 1)
        learner.may_train.set()
        result = await running
        await taking_part
    assert result.model_version == 1


@pytest.mark.parametrize("method", ["set_initial_model", "start_training", "get_logs", "get_model", "shut_down"])
async def test_a_driver_whose_connection_is_forgotten_at_any_moment_begins_and_ends_its_federation(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_S", 0.3)
    real, has_forgotten = getattr(GrpcLink, method), False
    async with forgetful() as (controller, proxy, _):

        def forgetting(*args: object) -> object:
            nonlocal has_forgotten
            if not has_forgotten:
                has_forgotten = True
                proxy.forget()
            return real(*args)

        monkeypatch.setattr(GrpcLink, method, forgetting)
        taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params))
        signals = TerminationSignals(federation_rounds=1)
        result = await DriverSession(proxy.params, 1, signals, initial_weights=Adds(1).get_weights()).run()
        await taking_part
        await controller.serve()  # it was told
    assert has_forgotten
    assert (result.model_version, len(result.rounds)) == (1, 1)


@pytest.mark.parametrize("is_attached", [False, True])
async def test_a_stop_over_a_connection_that_is_forgotten_is_asked_for_again(
    is_attached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_S", 0.3)
    real, learner, asked = GrpcLink.stop_training, AddsOnLoop(1), 0
    learner.may_train.clear()
    async with forgetful() as (controller, proxy, _):

        async def forgetting(link: GrpcLink, federation_id: FederationId, reason: str) -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                proxy.forget()
            await real(link, federation_id, reason)

        monkeypatch.setattr(GrpcLink, "stop_training", forgetting)
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params))
        driver = ClientParams("127.0.0.1", controller.client_params.port) if is_attached else proxy.params
        session = DriverSession(driver, 1, TerminationSignals(federation_rounds=1), initial_weights=weights(0))
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        await (DriverSession.attach(proxy.params) if is_attached else session).stop("enough")
        result = await running
        learner.may_train.set()
        await taking_part
    assert (asked, result.reason) == (2, "enough")


async def test_a_large_update_is_sent_again_that_was_forgotten_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_link, "STILL_S", 0.2)
    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=1.0, max_inflight_bytes=1, upload_idle_secs=1.0)
    learner = Adds(1)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        proxy_to(controller) as proxy,
    ):
        large = [np.zeros(FEW_OWN_CONNECTION_BYTES, np.uint8)]
        taking_part = asyncio.create_task(run_learner(learner, proxy.params))
        session = DriverSession(controller, 1, TerminationSignals(federation_rounds=1), initial_weights=large)
        running = asyncio.create_task(session.run())
        jobs = controller._open.service._jobs
        await until(lambda: jobs.current is not None)
        assert jobs.current is not None
        room = await jobs.current.staging.reserve(1)
        await until(lambda: proxy.connections >= 2)  # the update has one of its own, and waits for room
        proxy.forget()
        await until(lambda: proxy.connections >= 4)  # both were made anew
        room.release()
        result = await running
        await taking_part
    assert result.model_version == 1
    assert len(learner.configs) == 1


async def test_calls_under_way_on_a_connection_that_is_dropped_are_lost_and_may_be_made_again() -> None:
    async with forgetful() as (_, proxy, link):
        reply = await link.join(ANYONE)
        await begun(link, Model.from_arrays(weights(0)), num_learners=2)
        async with link.tasks() as stream:
            await stream.send(Hello(reply.token, []))
            assert await stream.receive()
            events = link.watch_events(FEDERATION)
            while not isinstance(await anext(events), LearnerJoined):
                pass
            proxy.forget()
            under_way = [
                asyncio.ensure_future(each)
                for each in (stream.receive(), anext(events), link.get_model(FEDERATION), link.leave(reply.token))
            ]
            await asyncio.sleep(0)  # they are begun
            await link.renew()
            lost = await asyncio.gather(*under_way, return_exceptions=True)
            assert [type(each) for each in lost] == [ConnectionLost] * len(under_way), lost
            with pytest.raises(ConnectionLost):
                await stream.send(Hello(reply.token, []))
        assert (await link.get_model(FEDERATION)).arrays()[0][0] == 0.0


async def test_a_call_that_is_cancelled_while_its_connection_is_dropped_is_cancelled() -> None:
    async with forgetful() as (_, proxy, link):
        await link.join(ANYONE)
        proxy.forget()
        leaving = asyncio.create_task(link.leave(Token("a")))
        await asyncio.sleep(0)
        leaving.cancel()
        await link.renew()
        with pytest.raises(asyncio.CancelledError):
            await leaving


async def test_a_link_that_is_closed_is_not_renewed() -> None:
    async with forgetful() as (_, proxy, link):
        await link.join(ANYONE)
        await link.close()
        with pytest.raises(ConnectionLost):
            await link.join(ANYONE)
        assert proxy.connections == 1


async def test_those_who_share_a_connection_do_not_drop_each_others_new_one() -> None:
    async with forgetful() as (_, proxy, link):
        await link.join(ANYONE)
        forgotten = link.connection
        for _ in range(3):
            await link.renew(forgotten)
            await link.status()
        assert proxy.connections == 2


async def test_a_learner_whose_connection_is_forgotten_connects_again_when_its_lease_is_over() -> None:
    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=0.5)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        proxy_to(controller) as proxy,
    ):
        learner = asyncio.create_task(run_learner(Adds(1), proxy.params, learner_id="a"))
        await until(lambda: "a" in controller.longest_silences_ms())
        proxy.forget()
        await until(lambda: proxy.connections == 2)
        signals = TerminationSignals(federation_rounds=1)
        assert (await DriverSession(controller, 1, signals).run()).model_version == 1
        await learner


async def test_a_learner_whose_connection_is_forgotten_is_back_before_its_lease_is_over() -> None:
    config = ControllerConfig(heartbeat_secs=0.2, lease_secs=4.0)
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        proxy_to(controller) as proxy,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run_learner(learner, proxy.params, learner_id="a"))
        session = DriverSession(controller, 1, TerminationSignals(federation_rounds=1), initial_weights=weights(0))
        running = group.create_task(session.run())
        await learner.is_training.wait()
        before = controller._open.registry.get(LearnerId("a"))
        proxy.forget()
        await until(lambda: proxy.connections == 2)
        await until(lambda: controller._open.registry.get(LearnerId("a")) is not before)
        learner.may_train.set()
        await running
    left = [event async for event in session.events() if isinstance(event, LearnerLeft)]
    assert not [event for event in left if "silent" in event.reason]


async def test_an_update_that_waits_for_a_connection_is_lost_with_it() -> None:
    async def says_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await dropped.wait()
        writer.close()

    accepted, dropped = asyncio.Event(), asyncio.Event()
    model = Model.from_arrays(weights(0))
    async with asyncio.timeout(PATIENCE_S), await asyncio.start_server(says_nothing, "127.0.0.1", 0) as server:
        link = GrpcLink(ClientParams(port=server.sockets[0].getsockname()[1]))
        uploading = asyncio.create_task(link.train_done(Token("t"), Header("update", model.manifest, 0), model))
        await accepted.wait()
        await link.renew()
        with pytest.raises(ConnectionLost):
            await uploading
        await link.close()
        dropped.set()
