"""The aggregator when its store fails, hangs, or is slow, and with models that are worked on in a thread."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind
from puppet import puppet

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.federation import course
from metisfl_async.core.messages import Farewell, Outcome, UpdateReply
from metisfl_async.errors import StoreError
from metisfl_async.store.base import GLOBAL, Stored
from metisfl_async.store.memory import InMemoryStore
from metisfl_async.strategies import FedAvg, Update

ENDLESS = TerminationSignals(execution_cutoff_time_mins=10)
FED_REC = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")


async def fails(*_: object) -> None:
    raise StoreError("the store", "it is full")


def fails_for_learners(works: Callable[..., Any]) -> Callable[..., Any]:
    """Let a store keep global models, and nobody else's."""

    async def insert(self: InMemoryStore, owner: str, *args: object) -> None:
        if owner != GLOBAL:
            await fails()
        await works(self, owner, *args)

    return insert


async def hangs(*_: object) -> None:
    await asyncio.Event().wait()


def break_store(monkeypatch: pytest.MonkeyPatch, method: str, how: Callable[..., object]) -> None:
    """Make a method of the store fail or hang after two calls; a global model is inserted by `commit`."""
    works = getattr(InMemoryStore, method)
    calls = 0

    async def breaks(self: InMemoryStore, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += method == "commit" or args[0] != GLOBAL
        if calls > 2 and (method == "commit" or args[0] != GLOBAL):
            await how()  # type: ignore[misc]
        return await works(self, *args, **kwargs)

    monkeypatch.setattr(InMemoryStore, method, breaks)


BROKEN = ["commit", "insert", "latest"]
IMPATIENT = ModelStoreConfig(retry_secs=0.2)


@pytest.mark.parametrize("over_grpc", [False, True])
@pytest.mark.parametrize("method", BROKEN)
async def test_a_store_that_fails_ends_the_federation(
    method: str, over_grpc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_store(monkeypatch, method, fails)
    async with nothing_left_behind():
        controller = Controller(ServerParams() if over_grpc else None, FED_REC, IMPATIENT)
        session = DriverSession(controller, [Adds(1), Adds(2)], ENDLESS)
        async with asyncio.timeout(PATIENCE_S):
            try:
                await session.run()
            except StoreError:
                trace = traceback.format_exc()
    assert trace.endswith("the store: it is full\n")


@pytest.mark.parametrize("over_grpc", [False, True])
@pytest.mark.parametrize("method", BROKEN)
async def test_a_store_that_hangs_does_not_hold_up_the_end(
    method: str, over_grpc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_hanging = asyncio.Event()

    async def hangs() -> None:
        is_hanging.set()
        await asyncio.Event().wait()

    break_store(monkeypatch, method, hangs)
    monkeypatch.setattr(course, "ENDING_S", 0.2)
    async with nothing_left_behind():
        controller = Controller(ServerParams() if over_grpc else None, FED_REC, IMPATIENT)
        session = DriverSession(controller, [Adds(1), Adds(2)], ENDLESS)
        async with asyncio.timeout(PATIENCE_S):
            running = asyncio.create_task(session.run())
            await is_hanging.wait()
            await session.stop("it takes too long")
            result = await running
    assert result.reason == "it takes too long"
    published = [record.number for record in result.rounds if record.is_published]
    assert result.model_version == max(published, default=0)
    counted = {name: part for record in result.rounds for name, part in record.learners.items()}
    assert all(part.train_state in ("counted", "cancelled", "pending") for part in counted.values())


async def test_who_waits_for_an_answer_that_will_not_come_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InMemoryStore, "insert", fails_for_learners(InMemoryStore.insert))
    async with Controller(ServerParams(), FED_REC, IMPATIENT) as controller:
        session = DriverSession(controller, 1, ENDLESS, initial_weights=[np.zeros(1, np.float32)])
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as learner, asyncio.timeout(PATIENCE_S):
            offer = await learner.task()
            reply = await learner.push(learner.frames(offer, [np.zeros(1, np.float32)]))
            assert reply == UpdateReply(Outcome.CANCELLED, "the task is cancelled: the federation ended")
            await learner.link.leave(learner.token)
        with pytest.raises(StoreError, match="it is full"):
            await running
        assert session.result is not None
        assert session.result.model_version == 0


async def test_who_leaves_and_comes_back_while_its_update_is_folded_has_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_folding, may_fold = asyncio.Event(), asyncio.Event()

    async def latest(self: InMemoryStore, owner: str) -> Stored | None:
        kept = await lineage(self, owner)
        if kept and not may_fold.is_set():
            is_folding.set()
            await may_fold.wait()
        return kept[-1] if kept else None

    lineage = InMemoryStore.lineage
    monkeypatch.setattr(InMemoryStore, "latest", latest)
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec", evaluate_every=0)
    async with Controller(ServerParams(), config) as controller, asyncio.timeout(PATIENCE_S):
        signals = TerminationSignals(global_updates=3)
        session = DriverSession(controller, 2, signals, initial_weights=[np.zeros(1, np.float32)])
        running = asyncio.create_task(session.run())
        async with puppet(controller, "b") as other, puppet(controller, "a") as learner:
            for value in (1, 2):
                frames = learner.frames(await learner.task(), [np.full(1, value, np.float32)])
                pushing = asyncio.create_task(learner.push(frames))
                if value == 1:
                    assert (await pushing).is_taken
            await is_folding.wait()
            await learner.link.leave(learner.token)
            async with puppet(controller, "a") as back:
                may_fold.set()
                assert (await pushing).is_taken
                frames = other.frames(await other.task(), [np.full(1, 8, np.float32)])
                assert (await other.push(frames)).is_taken
                for one in (back, other):
                    while not isinstance(await one.next(), Farewell):
                        pass
                    await one.link.leave(one.token)
        result = await running
    assert result.final_model is not None
    assert result.final_model[0] == [5.0]  # of 2, its newest, and 8


class Notes(FedAvg):
    """A mean of updates that are not too stale, which notes how stale each one is."""

    def __init__(self, max_staleness: int) -> None:
        self.max_staleness = max_staleness
        self.seen: list[tuple[str, int]] = []

    def fold(self, update: Update) -> None:
        self.seen.append((update.learner, update.staleness))
        if update.staleness > self.max_staleness:
            raise ConfigError("staleness", update.staleness, f"at most {self.max_staleness}")
        super().fold(update)


@pytest.mark.parametrize(("max_staleness", "mean"), [(9, 3.0), (1, 4.0)])
async def test_the_latest_updates_of_others_are_as_stale_as_they_are_and_may_be_refused(
    max_staleness: int, mean: float
) -> None:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule=Notes(max_staleness), evaluate_every=0)
    async with Controller(ServerParams(), config) as controller, asyncio.timeout(PATIENCE_S):
        signals = TerminationSignals(global_updates=3)
        session = DriverSession(controller, 2, signals, initial_weights=[np.zeros(1, np.float32)])
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as a, puppet(controller, "b") as b:
            for learner, value in ((a, 2), (b, 3), (b, 4)):
                frames = learner.frames(await learner.task(), [np.full(1, value, np.float32)])
                assert (await learner.push(frames)).is_taken
            rule = controller._open.job.aggregator._rule
            for learner in (a, b):
                while not isinstance(await learner.next(), Farewell):
                    pass
                await learner.link.leave(learner.token)
        result = await running
    assert isinstance(rule, Notes)
    assert rule.seen == [("a", 0), ("b", 1), ("a", 1), ("b", 0), ("a", 2)]
    assert result.final_model is not None
    assert result.final_model[0] == [mean]
