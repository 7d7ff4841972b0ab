"""A large update has a connection of its own; what is large is for the controller to say."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, until
from proxy import proxy_to
from puppet import puppet, weights

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.codec import pace
from metisfl_async.codec.frame import Header, encode
from metisfl_async.controller import conversations
from metisfl_async.controller.conversations import FEW, FEW_OWN_CONNECTION_BYTES
from metisfl_async.core.messages import OWN_CONNECTION_BYTES
from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.transport import grpc_link
from metisfl_async.transport.convert import GO_AHEAD

ROUND = TerminationSignals(federation_rounds=1)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any number of learners be many."""
    monkeypatch.setattr(conversations, "FEW", 0)


@pytest.mark.parametrize(
    ("few", "is_quick", "size_bytes", "connections"),
    [
        (FEW, True, OWN_CONNECTION_BYTES, 1),
        (FEW, True, FEW_OWN_CONNECTION_BYTES - 1, 1),
        (FEW, True, FEW_OWN_CONNECTION_BYTES, 2),
        (FEW, False, OWN_CONNECTION_BYTES - 1, 1),
        (FEW, False, OWN_CONNECTION_BYTES, 2),
        (0, True, OWN_CONNECTION_BYTES - 1, 1),
        (0, True, OWN_CONNECTION_BYTES, 2),
    ],
)
async def test_it_depends_on_how_many_learners_there_are_and_on_the_link(
    few: int, is_quick: bool, size_bytes: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "FEW", few)
    monkeypatch.setattr(pace, "FIRST_BYTES", pace.CHUNK_BYTES if is_quick else pace.FIRST_BYTES)  # known from the start
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        proxy_to(controller) as proxy,
    ):
        taking_part = asyncio.create_task(run_learner(Adds(1), proxy.params))
        first = [np.zeros(size_bytes, np.uint8)]
        session = DriverSession(controller, 1, ROUND, initial_weights=first)
        result = await session.run()
        await taking_part
    assert (result.model_version, proxy.connections) == (1, connections)


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize(("size", "more"), [(2**19, 3), (2**19 - 32, 0)], ids=["large", "small"])
async def test_a_large_update_has_a_connection_of_its_own_that_ends_with_it(size: int, more: int) -> None:
    """gRPC keeps memory for each connection on which much was received, for as long as there is the connection."""

    class Looks(Adds):
        async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
            await until(lambda: len(proxy.writers) == 2)  # both ends of the first connection, and of no other
            return parameters, {}

    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        learner = asyncio.create_task(run_learner(Looks(1, size), proxy.params))
        await DriverSession(controller, 1, TerminationSignals(federation_rounds=2)).run()
        await learner
    assert proxy.connections == 1 + more  # the first weights are an update as well


@pytest.mark.usefixtures("crowded")
async def test_where_no_other_connection_can_be_had_soon_a_large_update_goes_over_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_link, "CONNECT_S", 0.1)

    class Slows(Adds):
        async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
            proxy.answers_after_s = PATIENCE_S
            return parameters, {}

    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        learner = asyncio.create_task(run_learner(Slows(1, 2**19), proxy.params))
        result = await DriverSession(controller, 1, ROUND, initial_weights=weights(0, 2**19)).run()
        await learner
        assert proxy.connections == 2
    assert len(result.rounds[0].participants) == 1


@pytest.mark.usefixtures("crowded")
async def test_a_link_that_is_closed_ends_a_large_update_on_its_way() -> None:
    async with Controller(ServerParams(), ControllerConfig(max_inflight_bytes=1)) as controller:
        session = DriverSession(controller, 2, ROUND, initial_weights=weights(0, 2**19))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as a, puppet(controller, "b") as b:
            offer_a, offer_b = await a.task(), await b.task()
            holds_room = a.upload()
            await holds_room.write(encode(a.frames(offer_a, weights(1, 2**19))[0]))
            assert await holds_room.read() == GO_AHEAD
            header = b.frames(offer_b, update := weights(1, 2**19))[0]
            assert isinstance(header, Header)
            waiting = asyncio.create_task(b.link.train_done(b.token, header, Model.from_arrays(update)))
            await until(lambda: controller.snapshot().uploads_waiting == 1)
            await b.link.close()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        running.cancel()
        await asyncio.wait([running])
