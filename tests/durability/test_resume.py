"""A controller that dies and is started again: nothing is lost, nobody trains twice, and the result is the same."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from durability.in_process import Counts
from federations import PATIENCE_S, Adds, until

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.controller.job import Job
from metisfl_async.core.errors import TransportError
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array
from metisfl_async.errors import ModelLost
from metisfl_async.events import FederationStarted
from metisfl_async.store.disk import DiskStore
from metisfl_async.strategies import FedAvg, FedAvgM, FedBuff, NormBound, Synchronous


async def test_a_killed_controller_goes_on_where_it_was(tmp_path: Path, free_port: int) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    server, dial = ServerParams(port=free_port), ClientParams(port=free_port)
    learners = [Counts(1), Counts(2)]
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        first = await Controller(server, ControllerConfig(), store).__aenter__()
        for index, learner in enumerate(learners):
            group.create_task(run_learner(learner, dial, learner_id=f"site-{index}"))
        weights: list[Array] = [np.zeros(1, np.float32), np.array(0, np.int64)]
        signals = TerminationSignals(federation_rounds=6)
        session = DriverSession(dial, 2, signals, initial_weights=weights)
        running = group.create_task(session.run())
        await until(lambda: len(learners[0].trained) >= 3)
        await first.abort()
        async with Controller(server, ControllerConfig(), store, resume=True) as second:
            result = await running
            assert second is not first
    events = [event async for event in session.events() if isinstance(event, FederationStarted)]
    assert len({event.run_id for event in events}) == 2
    assert {event.started_at for event in events} == {result.started_at}
    times = [result.started_at, *(record.started_at for record in result.rounds), time.time()]
    assert times == sorted(times)
    assert result.final_model is not None
    assert result.final_model[0] == pytest.approx([6 * 5 / 3])
    assert [record.number for record in result.rounds] == [1, 2, 3, 4, 5, 6]
    for learner in learners:
        assert len(learner.trained) == len(set(learner.trained)) == 6


async def test_models_that_were_not_saved_are_lost_and_made_again(tmp_path: Path, free_port: int) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path, durable_every=5)
    config = ControllerConfig(aggregation_rule=FedBuff(2), scheduler="Asynchronous", min_learners=2)
    server, dial = ServerParams(port=free_port), ClientParams(port=free_port)
    learners = [Counts(1), Counts(2)]
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        first = await Controller(server, config, store).__aenter__()
        for index, learner in enumerate(learners):
            group.create_task(run_learner(learner, dial, learner_id=f"site-{index}"))
        weights: list[Array] = [np.zeros(1, np.float32), np.array(0, np.int64)]
        session = DriverSession(dial, 2, TerminationSignals(global_updates=18), initial_weights=weights)
        running = group.create_task(session.run())
        await until(lambda: session.result is not None and (session.result.model_version or 0) >= 7)
        await first.abort()
        async with Controller(server, config, store, resume=True):
            result = await running
    assert [record.number for record in result.rounds] == [*range(1, 19)]
    assert result.model_version == 18 + 4  # the numbers of versions that may have been lost are not used again
    assert result.final_model is not None
    assert result.final_model[0] > 0


async def test_the_end_saves_the_latest_model(tmp_path: Path) -> None:
    config = ControllerConfig(aggregation_rule="FedAsync", scheduler="Asynchronous")
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path, durable_every=5)
    signals = TerminationSignals(global_updates=8)
    async with asyncio.timeout(PATIENCE_S):
        await DriverSession(Controller(None, config, store), [Adds(1), Adds(2)], signals).run()
    disk = DiskStore(store)
    await disk.open()
    try:
        (federation_id,) = (name for name in os.listdir(tmp_path) if len(name) == 32)
        assert (await disk.resume(federation_id)).version == 8
    finally:
        await disk.close()


def test_with_rounds_each_model_is_saved(tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path, durable_every=2)
    with pytest.raises(ConfigError, match="durable_every is 2; allowed: 1 with a scheduler that has rounds"):
        Controller(None, ControllerConfig(), store)


async def test_the_same_session_goes_on_in_one_script(tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    learners = [Counts(1), Counts(2)]
    signals = TerminationSignals(federation_rounds=5)
    async with asyncio.timeout(PATIENCE_S):
        first = Controller(None, ControllerConfig(), store)
        running = asyncio.create_task(DriverSession(first, learners, signals).run())
        await until(lambda: len(learners[0].trained) >= 2)
        await first.abort()
        await asyncio.wait([running])
        again = Controller(None, ControllerConfig(), store)
        result = await DriverSession(again, learners, signals).run(resume=True)
    assert [record.number for record in result.rounds] == [1, 2, 3, 4, 5]
    assert result.final_model is not None
    assert result.final_model[0] == pytest.approx([5 * 5 / 3])
    assert result.first_weights.endswith("as made")


async def test_an_unfinished_federation_is_not_overwritten_unasked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    learner = Counts(1)
    first = Controller(None, ControllerConfig(), store)
    running = asyncio.create_task(DriverSession(first, [learner], TerminationSignals(federation_rounds=1000)).run())
    await until(lambda: len(learner.trained) >= 1)
    await first.abort()
    await asyncio.wait([running])
    with pytest.raises(ConfigError, match=r"resume is False; allowed: True, to go on with federation .*, --resume"):
        await Controller(None, ControllerConfig(), store).__aenter__()
    other = ControllerConfig(aggregation_rule="FedAdam")
    with pytest.raises(
        ConfigError,
        match=r"aggregation_rule was {'FedAvg': .*}, and is {'FedAdam': .* Everything may differ but aggregation_rule",
    ):
        await Controller(None, other, store, resume=True).__aenter__()
    async with Controller(None, ControllerConfig(aggregation_rule=FedAvg(), heartbeat_secs=1.0), store, resume=True):
        pass  # limits and times may differ
    logged = [record.getMessage() for record in caplog.records if record.name.endswith("dispatcher")]
    assert "the first weights: of learner-0, as made" in logged
    assert "round 1: 1 learner trains model version 0" in logged
    assert re.fullmatch(r"goes on with what was saved; models so far: \d+", logged[-2])


async def test_a_controller_that_cannot_listen_leaves_its_federation_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    async with asyncio.timeout(PATIENCE_S):
        first = Controller(None, ControllerConfig(), store)
        endless = DriverSession(first, [Counts(1)], TerminationSignals(execution_cutoff_time_mins=10))
        running = asyncio.create_task(endless.run())
        await until(lambda: endless.result is not None and len(endless.result.rounds) >= 2)
        await first.abort()
        running.cancel()
        await asyncio.wait([running])
        resumed: list[Job] = []
        resume = Job.resume

        async def noted(job: Job) -> bool:
            resumed.append(job)
            return await resume(job)

        monkeypatch.setattr(Job, "resume", noted)
        async with Controller(ServerParams()) as other:
            taken = ServerParams(port=other.client_params.port)
            with pytest.raises(TransportError, match="cannot listen there"):
                await Controller(taken, ControllerConfig(), store, resume=True).__aenter__()
        (job,) = resumed
        assert job.federation.returning  # a timer would give them up
        assert job.events.is_closed
        assert not job._dispatcher._timers
        async with Controller(None, ControllerConfig(), store, resume=True) as second:
            assert second.snapshot().federation_id == job.id


async def test_what_another_version_has_written_otherwise_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    learner = Counts(1)
    record = RoundRecord.to_dict
    monkeypatch.setattr(RoundRecord, "to_dict", lambda self: record(self) | ({"new": 1} if self.number == 1 else {}))
    first = Controller(None, ControllerConfig(), store)
    running = asyncio.create_task(DriverSession(first, [learner], TerminationSignals(federation_rounds=1000)).run())
    await until(lambda: len(learner.trained) >= 4)
    await first.abort()
    await asyncio.wait([running])
    async with Controller(None, ControllerConfig(), store, resume=True) as controller:
        job = controller._open.jobs.current
        assert job is not None
        assert [record.number async for record in job.records()][:2] == [2, 3]
        text = job.federation.standing.to_json()
        await job.keeper.commit(json.dumps(json.loads(text) | {"new": 1}))
    assert "a round's record, number 0, is left out: it was written by another version of metisfl_async" in caplog.text
    with pytest.raises(ModelLost, match=f"how federation '{job.id}' stands was written by another version.*'new'"):
        await Controller(None, ControllerConfig(), store, resume=True).__aenter__()


async def test_a_finished_federation_is_nothing_to_resume(tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    for _ in range(2):
        controller = Controller(None, ControllerConfig(), store, resume=True)
        result = await DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1)).run(resume=True)
        assert result.model_version == 1


def test_what_keeps_state_and_does_not_say_it_is_refused_by_name(tmp_path: Path) -> None:
    class Krum(FedAvg):
        pass

    class Says(FedAvg):
        def state(self) -> dict[str, Array]:
            return {}

    class Remembers(Synchronous):
        def __init__(self) -> None:
            self.rounds = 0

    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    with pytest.raises(ConfigError, match="aggregation_rule is 'Krum'; allowed: a class with methods state"):
        Controller(None, ControllerConfig(aggregation_rule=Krum()), store)
    with pytest.raises(ConfigError, match="aggregation_rule is 'Krum'"):
        Controller(None, ControllerConfig(aggregation_rule=FedAvgM(NormBound(1.0, Krum()))), store)
    Controller(None, ControllerConfig(aggregation_rule=FedAvgM(NormBound(1.0))), store)
    with pytest.raises(ConfigError, match="scheduler is 'Remembers'"):
        Controller(None, ControllerConfig(scheduler=Remembers()), store)
    Controller(None, ControllerConfig(aggregation_rule=Says(), scheduler=Synchronous()), store)
    Controller(None, ControllerConfig(aggregation_rule=Krum(), scheduler=Remembers()))
    with pytest.raises(ConfigError, match="resume is True; allowed: False, or use a model store that outlives"):
        Controller(resume=True)


@pytest.mark.parametrize("field", ["aggregation_rule", "scheduler"])
async def test_a_state_that_nothing_takes_up_again_is_no_state(tmp_path: Path, field: str) -> None:
    class Half(FedAvg):
        def state(self) -> dict[str, Array]:
            return {"moment": np.ones(1)}

    class Counted(Synchronous):
        def state(self) -> Json:
            return 5

    given = Half() if field == "aggregation_rule" else Counted()
    config = ControllerConfig(**{field: given})  # type: ignore[arg-type]
    controller = Controller(None, config, ModelStoreConfig(model_store="Disk", directory=tmp_path))
    with pytest.raises(RuntimeError, match=rf"{type(given).__name__} has a state\(\), but no restore\(\) of its own"):
        await DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1)).run()
