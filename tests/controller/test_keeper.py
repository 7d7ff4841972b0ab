"""What is tried again while a store fails, and what is not; and what a federation whose store is gone still gives."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from federations import PATIENCE_S, Adds
from puppet import FEDERATION

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.controller.keeper import Keeper
from metisfl_async.core.errors import ModelLost, StoreError
from metisfl_async.core.federation.course import Course
from metisfl_async.core.federation.events import Event, LearnerEvaluated, RoundFinished, StoreRecovered, StoreStalled
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.events import RoundStarted
from metisfl_async.learner.spool import Spool
from metisfl_async.store.disk import DiskStore
from metisfl_async.store.event_log import EventLog
from metisfl_async.store.memory import InMemoryStore
from metisfl_async.testing import FakeLearner, Federation

ROUNDS = TerminationSignals(federation_rounds=3)


async def test_what_is_damaged_is_told_at_once_and_what_may_pass_is_tried_again() -> None:
    told: list[Event] = []
    config = ModelStoreConfig(retry_secs=None)
    keeper = Keeper(InMemoryStore(config), config, told.append, asyncio.get_running_loop().time)
    errors = [StoreError("the store", "it is full"), StoreError("the store", "it is full")]

    async def passes() -> str:
        if errors:
            raise errors.pop()
        return "done"

    async def stays() -> None:
        raise ModelLost("the store", "a bit is wrong")

    assert await keeper.do(passes) == "done"
    assert [type(event) for event in told] == [StoreStalled, StoreStalled, StoreRecovered]
    with pytest.raises(ModelLost):
        await keeper.do(stays)
    assert len(told) == 3


async def test_each_record_is_given_once_where_the_first_are_not_kept() -> None:
    text = json.dumps(RoundRecord(100, 0).to_dict())
    config = ModelStoreConfig(history_bytes=40 * sys.getsizeof(text))
    keeper = Keeper(InMemoryStore(config), config, lambda event: None, asyncio.get_running_loop().time)
    await keeper.store.begin(FEDERATION, "")

    async def close(*numbers: int) -> None:
        for number in numbers:
            keeper.close_round(RoundRecord(number, 0))
        await keeper.commit("")

    await close(*range(100, 200))
    assert [record.number async for record in keeper.records()] == list(range(160, 200))
    reading = keeper.records()
    read = [(await anext(reading)).number for _ in range(20)]
    await close(*range(200, 260))  # while somebody reads who is slow
    read += [record.number async for record in reading]
    assert read == [*range(160, 192), *range(220, 260)]


async def test_records_that_cannot_be_read_at_first_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelStoreConfig()
    store = InMemoryStore(config)
    keeper = Keeper(store, config, lambda event: None, asyncio.get_running_loop().time)
    await store.begin(FEDERATION, "")
    for number in range(40):
        keeper.close_round(RoundRecord(number, 0))
        if number < 35:
            await keeper.commit("")
    works, calls = store.rounds, 0

    async def breaks(start: int = 0) -> AsyncGenerator[str, None]:
        nonlocal calls
        calls += 1
        async for text in works(start):
            yield text
            if calls % 2:
                raise StoreError("the store", "it is away")

    monkeypatch.setattr(store, "rounds", breaks)
    assert [record.number async for record in keeper.records()] == list(range(40))
    assert calls > 4
    await store.close()


async def test_a_store_that_stays_away_leaves_the_model_and_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path, retry_secs=0.2)
    commit, is_away = DiskStore.commit, False

    def away(*args: Any) -> Any:
        raise StoreError("the store", "it is away")

    async def breaks(self: DiskStore, standing: str, **kwargs: Any) -> None:
        nonlocal is_away
        is_away = is_away or (kwargs.get("model") is not None and kwargs["model"].version == 3)
        if is_away:
            away()
        await commit(self, standing, **kwargs)

    async def read(self: DiskStore, federation_id: str, start: int, count: int) -> Sequence[str]:
        return away() if is_away else await works(self, federation_id, start, count)

    works = DiskStore._read_rounds
    monkeypatch.setattr(DiskStore, "commit", breaks)
    monkeypatch.setattr(DiskStore, "_read_rounds", read)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), ControllerConfig(), store) as controller:
        taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params))
        session = DriverSession(controller.client_params, 1, TerminationSignals(federation_rounds=5))
        with pytest.raises(StoreError, match="it is away"):
            await session.run()
        await taking_part
        await controller.serve()
    assert session.result is not None
    assert session.result.final_model is not None
    assert (session.result.model_version, session.result.reason) == (2, "the store: it is away")
    assert [record.number for record in session.result.rounds] == [1, 2, 3]


async def test_a_bug_while_a_start_is_written_down_ends_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(Course, "_written", bug)
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    async with asyncio.timeout(PATIENCE_S):
        for server in (None, ServerParams()):
            controller = Controller(server, ControllerConfig(), store, resume=True)
            with pytest.raises(AssertionError, match="a bug"):
                await DriverSession(controller, [Adds(1)], ROUNDS).run()


async def test_a_driver_waits_for_a_durable_controller_that_was_closed_in_order(
    tmp_path: Path, federation: Callable[..., Federation]
) -> None:
    store, signals = ModelStoreConfig(model_store="Disk", directory=tmp_path), TerminationSignals(federation_rounds=20)
    async with federation([FakeLearner(takes=10.0)], signals, model_store_config=store) as fed:
        await fed.event(RoundStarted, number=3)
        assert fed.controller is not None
        await fed.controller.close()
        await fed.sleep(40.0)
        await fed.restart("controller")
        result = await fed.result()
        assert any("may be started again" in line for line in fed.log)
    assert [record.number for record in result.rounds] == list(range(1, 21))


async def test_long_names_and_texts_of_learners_count_in_the_history_that_is_kept() -> None:
    log = EventLog(history_bytes=100_000)
    for number in range(100):
        log.append(LearnerEvaluated(number, "a", {"x" * 10_000: 1.0}))
        record = RoundRecord(number, 0)
        record.learners["a"] = LearnerRecord(train_metrics={"y" * 10_000: 1.0})
        log.append(RoundFinished(record))
    assert len(log.kept()) < 10


async def test_two_learners_do_not_use_one_spool(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    assert await first.open() == []
    with pytest.raises(ConfigError, match=r"spool_dir is .*; allowed: a directory that no other learner uses"):
        await second.open()
    first.close()
    assert await second.open() == []
    second.close()
