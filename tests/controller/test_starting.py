"""A federation is started once the store has it: until then, nobody is told so, however often they ask."""

from __future__ import annotations

import asyncio

import pytest
from federations import PATIENCE_S
from puppet import FEDERATION

from metisfl_async import Controller, ServerParams, TerminationSignals
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.messages import StartRequest
from metisfl_async.driver.following import status_of
from metisfl_async.store.memory import InMemoryStore

REQUEST = StartRequest(TerminationSignals(federation_rounds=1), 1, 0, None, FEDERATION)


class Gate:
    """Holds up the beginning of a federation in the store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_there, self.may_go_on = asyncio.Event(), asyncio.Event()
        begin = InMemoryStore.begin

        async def held(store: InMemoryStore, federation_id: str, standing: str) -> None:
            self.is_there.set()
            await self.may_go_on.wait()
            await begin(store, federation_id, standing)

        monkeypatch.setattr(InMemoryStore, "begin", held)


async def test_who_asks_again_hears_that_it_is_started_when_the_store_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = controller.connect()
        first = asyncio.create_task(link.start_training(REQUEST))
        await gate.is_there.wait()
        again = asyncio.create_task(link.start_training(REQUEST))
        with pytest.raises(ConnectionLost, match=f"federation {FEDERATION} is being started there"):
            await status_of(link, 0.01)
        assert not again.done()
        gate.may_go_on.set()
        await asyncio.gather(first, again)
        assert (await status_of(link, None)).signals == REQUEST.signals


async def test_who_asks_again_starts_it_where_the_first_call_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = controller.connect()
        first = asyncio.create_task(link.start_training(REQUEST))
        await gate.is_there.wait()
        again = asyncio.create_task(link.start_training(REQUEST))
        await asyncio.sleep(0)
        first.cancel()
        gate.may_go_on.set()
        await again
        assert first.cancelled()
        assert (await link.status()).federation_id == FEDERATION
