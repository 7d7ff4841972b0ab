"""Whom a controller dials: the learners that it was told of, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, until
from listening import listening
from proxy import proxy_to_port
from puppet import FEDERATION, puppet

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.controller import farewell, listeners
from metisfl_async.core.errors import ConnectionLost, Superseded, UnexpectedMessage, UnknownLearner
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, Token
from metisfl_async.core.messages import Accept, Hello, JoinRequest, StartRequest
from metisfl_async.events import LearnerLeft
from metisfl_async.transport.grpc_link import GrpcLink

ROUND = TerminationSignals(federation_rounds=1)


@asynccontextmanager
async def tripwire() -> AsyncIterator[tuple[ClientParams, list[str]]]:
    """A port that notes who dials it."""
    dials: list[str] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dials.append(str(writer.get_extra_info("peername")))
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        yield ClientParams("127.0.0.1", server.sockets[0].getsockname()[1]), dials


@asynccontextmanager
async def link_to(controller: Controller) -> AsyncIterator[GrpcLink]:
    link = GrpcLink(controller.client_params)
    try:
        yield link
    finally:
        await link.close()


async def test_an_address_that_a_joiner_made_up_is_never_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "NAMING_S", 0.1)
    async with tripwire() as (made_up, dials), tripwire() as (named, dials_of_named):
        config = ControllerConfig(learners=[named])
        async with Controller(ServerParams(), config) as controller, link_to(controller) as link:
            request = JoinRequest(LearnerId("a"), Token(""), made_up.address, "secret")
            with pytest.raises(ConnectionLost, match=f"nobody has named a learner at {made_up.address} yet"):
                await link.join(request)
            await link.start_training(StartRequest(ROUND, 1, 0, None, FederationId("f")))
            with pytest.raises(ConfigError, match=f"{made_up.address}'; .* named: {named.address} "):
                await link.join(request)
            with pytest.raises(ConnectionLost, match=f"it cannot reach the learner at {named.address}"):
                await link.join(JoinRequest(LearnerId("a"), Token(""), named.address, "secret"))
            assert len(controller._open.registry) == 0
        assert dials_of_named  # it does dial
    assert dials == []


async def test_many_names_are_not_all_listed() -> None:
    config = ControllerConfig(learners=[ClientParams("host", port) for port in range(1, 100)])
    async with Controller(ServerParams(), config) as controller, link_to(controller) as link:
        await link.start_training(StartRequest(ROUND, 1, 0, None, FederationId("f")))
        with pytest.raises(ConfigError, match=r"host:4, host:5 and 94 more \(in ControllerConfig\.learners"):
            await link.join(JoinRequest(LearnerId("a"), Token(""), "host:100", "secret"))


async def test_who_claims_the_address_of_another_learner_gets_nothing() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        listening(controller.client_params, learner, "a") as listener,
        link_to(controller) as link,
    ):
        running = asyncio.create_task(DriverSession(controller, [listener.params], ROUND).run())
        await learner.is_training.wait()
        with pytest.raises(UnexpectedMessage, match=f"another learner listens at {listener.params.address}"):
            await link.join(JoinRequest(LearnerId("a"), Token(""), listener.params.address, "guessed"))
        with pytest.raises(Superseded):  # nor without an address
            await link.join(JoinRequest(LearnerId("a"), Token("")))
        learner.may_train.set()
        assert (await running).rounds[0].participants == ["a"]


async def test_reports_are_for_learners_that_listen_and_have_said_hello() -> None:
    async with Controller(ServerParams()) as controller, puppet(controller, "dials") as dials:
        with pytest.raises(UnexpectedMessage, match="others open Tasks"):
            await dials.link.report(dials.token, Hello(dials.token))
        with pytest.raises(UnknownLearner):
            await dials.link.report(Token("nobody"), Hello(Token("nobody")))
        async with listening(controller.client_params, Adds(1)) as listener:
            controller._open.service.listeners.name([listener.params])
            await until(lambda: listener.is_connected)
            with pytest.raises(Superseded):
                await dials.link.report(listener.token, Hello(listener.token))
            of_listener = LearnerId(listener.params.address)
            controller._open.registry.get(of_listener).connection.close()  # type: ignore[union-attr]
            await until(lambda: controller._open.registry.get(of_listener).connection is None)  # type: ignore[union-attr]
            with pytest.raises(UnknownLearner):
                await dials.link.report(listener.token, Accept("x"))  # type: ignore[arg-type]


async def test_a_learner_that_is_told_nothing_any_more_joins_again() -> None:
    """Its conversation ends at the controller's; its next report is not known there."""
    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=5.0)
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        listening(controller.client_params, learner, "a") as listener,
    ):
        running = asyncio.create_task(DriverSession(controller, [listener.params], ROUND).run())
        await learner.is_training.wait()
        first = controller._open.registry.get(LearnerId("a"))
        assert first is not None
        assert first.connection is not None
        first.connection.close()
        await until(lambda: controller._open.registry.get(LearnerId("a")) is not first)
        learner.may_train.set()
        result = await running
        await listener.task
    assert result.rounds[0].participants == ["a"]
    assert len(learner.configs) == 1


async def test_a_learner_that_died_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "FAREWELL_S", 0.1)
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        async with listening(controller.client_params, Adds(1), "a") as listener:
            controller._open.service.listeners.name([listener.params])
            await until(lambda: listener.is_connected)
        async with link_to(controller) as link:
            await link.shut_down(NO_FEDERATION)
        await controller.serve()


async def test_a_learner_that_comes_after_the_end_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "AWAY_S", 0.01)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller, link_to(controller) as link:
        await link.start_training(StartRequest(ROUND, 1, 0, None, FEDERATION))
        await link.shut_down(FEDERATION)
        await controller.serve()
        async with listening(controller.client_params, Adds(1)) as listener:
            controller._open.service.listeners.name([listener.params])
            await listener.task


async def test_who_waits_to_be_named_does_not_hold_up_the_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "NAMING_S", 3600.0)
    async with Controller(ServerParams()) as controller, link_to(controller) as link:
        joining = asyncio.create_task(link.join(JoinRequest(LearnerId("a"), Token(""), "host:1", "secret")))
        closing = controller._open.service.closing
        await until(lambda: bool(closing._waiters) and len(closing._waiters) == 2)
        await controller.close()
        with pytest.raises(ConnectionLost):
            await joining


async def test_one_that_cannot_be_reached_any_more_is_given_up_though_it_goes_on_reporting() -> None:
    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=1.0, min_learners=2)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        proxy_to_port(1) as proxy,
        listening(controller.client_params, Adds(1), "a", public_address=proxy.params.address) as listener,
    ):
        proxy.target = listener.params.port
        session = DriverSession(controller, [proxy.params], ROUND)
        running = asyncio.create_task(session.run())
        await until(lambda: listener.is_connected)
        proxy.target = 1
        proxy.cut()
        async with puppet(controller, "b"):
            left = [event async for event in _until_left(session, "a")]
        running.cancel()
        await asyncio.wait([running])
    assert proxy.params.address in left[0].reason


async def _until_left(session: DriverSession, learner: str) -> AsyncIterator[LearnerLeft]:
    async for event in session.events():
        if isinstance(event, LearnerLeft) and event.learner == learner:
            yield event
            return


async def test_a_bug_in_a_conversation_ends_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Federation, "_joined", joined)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        async with listening(controller.client_params, Adds(1)) as listener, link_to(controller) as link:
            controller._open.service.listeners.name([listener.params])
            await until(lambda: listener.is_connected)
            with pytest.raises(ConnectionLost):
                await link.start_training(StartRequest(ROUND, 1, 0, None, FederationId("f")))
            with pytest.raises(ZeroDivisionError):
                await controller.serve()
        with pytest.raises(ZeroDivisionError):
            await controller.close()
        controller._parts = None


def test_names_need_a_port_to_fetch_from() -> None:
    with pytest.raises(ConfigError, match=r"learners is .*; allowed: empty, or give server_params"):
        Controller(controller_config=ControllerConfig(learners=[ClientParams()]))
    with pytest.raises(ConfigError, match="to wait for others, give the controller server_params"):
        DriverSession(Controller(), [ClientParams()], ROUND)
