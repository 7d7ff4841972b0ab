"""A large update has a connection of its own; what is large is for the controller to say."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from federations import PATIENCE_S, Adds
from proxy import proxy_to

from metisfl_async import Controller, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.controller import conversations
from metisfl_async.controller.conversations import FEW, FEW_OWN_CONNECTION_BYTES
from metisfl_async.core.messages import OWN_CONNECTION_BYTES


@pytest.mark.parametrize(
    ("few", "size_bytes", "connections"),
    [
        (FEW, OWN_CONNECTION_BYTES, 1),
        (FEW, FEW_OWN_CONNECTION_BYTES - 1, 1),
        (FEW, FEW_OWN_CONNECTION_BYTES, 2),
        (0, OWN_CONNECTION_BYTES - 1, 1),
        (0, OWN_CONNECTION_BYTES, 2),
    ],
)
async def test_it_depends_on_how_many_learners_there_are(
    few: int, size_bytes: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "FEW", few)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        proxy_to(controller) as proxy,
    ):
        taking_part = asyncio.create_task(run_learner(Adds(1), proxy.params))
        first = [np.zeros(size_bytes, np.uint8)]
        session = DriverSession(controller, 1, TerminationSignals(federation_rounds=1), initial_weights=first)
        result = await session.run()
        await taking_part
    assert (result.model_version, proxy.connections) == (1, connections)
