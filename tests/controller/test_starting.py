"""A federation is started once the store has it: until then, nobody is told so, however often they ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from federations import PATIENCE_S, nothing_left_behind
from puppet import FEDERATION, weights

from metisfl_async import Controller, DriverSession, ModelStoreConfig, ServerParams, TerminationSignals
from metisfl_async.controller.job import Job
from metisfl_async.core.errors import ConnectionLost, StoreError, UnknownFederation
from metisfl_async.core.federation.events import FederationFinished
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Model
from metisfl_async.driver.following import status_of
from metisfl_async.store.memory import InMemoryStore

OTHER, NEXT = FederationId("e" * 32), FederationId("d" * 32)
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


async def test_what_is_being_written_goes_on_where_the_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, is_there, may_go_on = InMemoryStore.commit, asyncio.Event(), asyncio.Event()

    async def held(store: InMemoryStore, standing: str, **kwargs: Any) -> None:
        await commit(store, standing, **kwargs)
        is_there.set()
        await may_go_on.wait()

    monkeypatch.setattr(InMemoryStore, "commit", held)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = controller.connect()
        await link.set_initial_model(FEDERATION, Model.from_arrays(weights(1)))
        request = replace(REQUEST, has_model=True)
        first = asyncio.create_task(link.start_training(request))
        await is_there.wait()
        first.cancel()
        await asyncio.wait([first])
        again = asyncio.create_task(link.start_training(request))
        may_go_on.set()
        await again
        assert (await status_of(link, None)).signals == REQUEST.signals
        assert (await link.get_model(FEDERATION)).arrays()[0] == 1


async def test_a_stop_that_comes_while_it_is_written_ends_it_once_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = controller.connect()
        first = asyncio.create_task(link.start_training(REQUEST))
        await gate.is_there.wait()
        stop = asyncio.create_task(link.stop_training(FEDERATION, "enough"))
        with pytest.raises(ConnectionLost, match="is being started"):
            await status_of(link, 0.01)
        gate.may_go_on.set()
        await asyncio.gather(first, stop)
        events = [event async for event in link.watch_events(FEDERATION)]
        assert isinstance(events[-1], FederationFinished)
        assert events[-1].reason == "enough"


async def test_a_run_that_is_cancelled_while_it_starts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        signals = TerminationSignals(federation_rounds=1)
        running = asyncio.create_task(DriverSession(controller, 1, signals, initial_weights=weights(1)).run())
        await gate.is_there.wait()
        running.cancel()
        stopping = asyncio.create_task(controller.connect().stop_training(FEDERATION, "not this one"))
        gate.may_go_on.set()
        await asyncio.wait([running])
        assert running.cancelled()
        with pytest.raises(UnknownFederation):
            await stopping


async def test_a_stop_does_not_wait_for_a_store_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = asyncio.Event()

    async def failing(_store: InMemoryStore, _federation_id: str, _standing: str) -> None:
        fails.set()
        raise StoreError("here", "it is full")

    monkeypatch.setattr(InMemoryStore, "begin", failing)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = controller.connect()
        first = asyncio.create_task(link.start_training(REQUEST))
        await fails.wait()
        with pytest.raises(UnknownFederation):
            await link.stop_training(FEDERATION, "enough")
        with pytest.raises(StoreError, match="it is full"):
            await first


async def test_a_controller_that_closes_leaves_no_start_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller() as controller:
        first = asyncio.create_task(controller.connect().start_training(REQUEST))
        await gate.is_there.wait()
        first.cancel()
        await asyncio.wait([first])


async def test_one_that_cannot_begin_leaves_the_last_one_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    run = Job.run

    async def counted(job: Job) -> None:
        runs.append(job.id)
        await run(job)

    async def full(store: InMemoryStore, federation_id: str, standing: str) -> None:
        raise StoreError("the store", "it is full")

    monkeypatch.setattr(Job, "run", counted)
    store = ModelStoreConfig(retry_secs=1e-3)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), model_store_config=store) as controller:
        link = controller.connect()
        await link.start_training(REQUEST)
        await link.stop_training(FEDERATION, "enough")
        with monkeypatch.context() as patch:
            patch.setattr(InMemoryStore, "begin", full)
            with pytest.raises(StoreError, match="it is full"):
                await link.start_training(replace(REQUEST, federation_id=OTHER))
        for _ in range(100):
            await asyncio.sleep(0)
        assert (await link.status()).federation_id == FEDERATION
        assert runs == [FEDERATION, OTHER]
        await link.start_training(replace(REQUEST, federation_id=NEXT))
        assert (await link.status()).federation_id == NEXT
        await link.stop_training(NEXT, "enough")
        assert [type(event) async for event in link.watch_events(NEXT)][-1] is FederationFinished
