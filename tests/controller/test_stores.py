"""A controller whose models are on disk or in Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, session_of, until
from redis_server import RedisServer

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    TransportError,
)
from metisfl_async.errors import StoreError
from metisfl_async.events import ModelPublished
from metisfl_async.store import redis as redis_store

THREE_ROUNDS = TerminationSignals(federation_rounds=3)


def in_redis(server: RedisServer, **options: object) -> ModelStoreConfig:
    return ModelStoreConfig(model_store="Redis", model_store_port=server.port, **options)  # type: ignore[arg-type]


@pytest.fixture(params=["InMemory", "Disk", "Redis"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStoreConfig:
    match request.param:
        case "Disk":
            return ModelStoreConfig(model_store="Disk", directory=tmp_path, lineage_length=2, keep_local_models=True)
        case "Redis":
            server = request.getfixturevalue("redis_server")
            return in_redis(server, key_prefix=str(tmp_path), lineage_length=2, keep_local_models=True)
        case _:
            return ModelStoreConfig(lineage_length=2, keep_local_models=True)


async def test_a_federation_keeps_its_models(config: ModelStoreConfig) -> None:
    async with nothing_left_behind():
        async with Controller(ServerParams(), model_store_config=config) as controller:
            result = await DriverSession(controller, [Adds(1), Adds(3)], THREE_ROUNDS).run()
            before, last = await controller.lineage()
            assert (before.version, last.version) == (2, 3)
            assert result.final_model is not None
            for mine, given in zip(last.arrays(), result.final_model, strict=True):
                np.testing.assert_array_equal(mine, given)
            for learner, adds in (("learner-0", 1), ("learner-1", 3)):
                older, newer = await controller.lineage(learner)
                assert (older.version, newer.version) == (1, 2)
                np.testing.assert_array_equal(newer.arrays()[0], before.arrays()[0] + adds)
            assert await controller.lineage("nobody") == []
            of_learner = await controller._open.store.latest("learner-1")
            assert of_learner is not None
            assert of_learner.weight == 3
        async with Controller(model_store_config=config) as controller:
            assert await controller.lineage() == []  # those of the federation that runs


@pytest.mark.parametrize(("length", "kept"), [(1, [2]), (2, [1, 2]), (0, [0, 1, 2])])
async def test_a_rule_that_subtracts_old_updates_finds_them_in_any_store(
    config: ModelStoreConfig, length: int, kept: list[int]
) -> None:
    mean = await session_of([Adds(1), Adds(3)]).run()
    store = replace(config, keep_local_models=False, lineage_length=length)
    rule = ControllerConfig(aggregation_rule="FedRec")
    async with Controller(ServerParams(), rule, store) as controller:
        result = await DriverSession(controller, [Adds(1), Adds(3)], THREE_ROUNDS).run()
        assert [model.version for model in await controller.lineage("learner-0")] == kept  # the rule needs them
    assert result.final_model is not None
    assert mean.final_model is not None
    # All report in each round, so the mean of everybody's latest update is the mean of the round's.
    for of_latest, of_round in zip(result.final_model, mean.final_model, strict=True):
        np.testing.assert_allclose(of_latest, of_round, rtol=1e-6)


async def test_learners_models_are_kept_only_if_asked_for() -> None:
    async with Controller() as controller:
        await DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1)).run()
        with pytest.raises(
            ConfigError, match="keep_local_models is False; allowed: True, in the controller's ModelSto"
        ):
            await controller.lineage("learner-0")
        assert await controller._open.store.lineage("learner-0") == []


async def test_a_federation_goes_on_when_redis_comes_back(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with Controller(ServerParams(), model_store_config=in_redis(my_redis_server, lineage_length=0)) as controller:
        session = DriverSession(controller, [learner], THREE_ROUNDS)
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        my_redis_server.kill()
        learner.may_train.set()
        await until(lambda: "the model store waits for Redis" in caplog.text)
        my_redis_server.start()
        result = await running
        assert result.model_version == 3
        assert [model.version for model in await controller.lineage()] == [0, 1, 2, 3]


async def test_a_session_can_be_cancelled_while_redis_is_away(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "CLOSE_TIMEOUT_S", 0.1)
    async with nothing_left_behind():
        controller = Controller(ServerParams(), model_store_config=in_redis(my_redis_server))
        session = DriverSession(controller, [Adds(1)], TerminationSignals(execution_cutoff_time_mins=10))
        running = asyncio.create_task(session.run())
        async for event in session.events():
            if isinstance(event, ModelPublished):
                break
        my_redis_server.kill()
        await until(lambda: "the model store waits for Redis" in caplog.text)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_controller_waits_for_redis_and_can_be_cancelled_meanwhile(
    my_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    my_redis_server.stop()
    async with nothing_left_behind():
        for comes in (False, True):
            caplog.clear()
            controller = Controller(ServerParams(), model_store_config=in_redis(my_redis_server))
            opening = asyncio.create_task(controller.__aenter__())
            await until(lambda: "the model store waits for Redis" in caplog.text)
            if comes:
                my_redis_server.start()
                await opening
                assert controller.is_open
            else:
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
                assert not controller.is_open
            await controller.close()
        my_redis_server.kill()


async def test_what_was_opened_is_closed_when_the_rest_does_not_open(config: ModelStoreConfig) -> None:
    async with nothing_left_behind(), Controller(ServerParams()) as other:
        for _ in range(2):  # a directory that was not let go could not be had again
            controller = Controller(ServerParams(port=other.client_params.port), model_store_config=config)
            with pytest.raises(TransportError, match="cannot listen there"):
                await controller.__aenter__()


async def test_cancelled_while_it_opens_its_store_is_free_again(config: ModelStoreConfig) -> None:
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind():
        steps = 0
        while True:
            controller = Controller(ServerParams(), model_store_config=config)
            opening = asyncio.create_task(controller.__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            await controller.close()
            if not opening.cancelled():
                opening.result()
                break
            steps = max(steps + 1, steps * 5 // 4)
        assert steps > 1


@pytest.mark.parametrize("server_params", [None, ServerParams()], ids=["in memory", "over gRPC"])
async def test_a_store_that_fails_ends_the_federation_and_says_why(
    tmp_path: Path, server_params: ServerParams | None
) -> None:
    config = ModelStoreConfig(model_store="Disk", directory=tmp_path / "models", retry_secs=0.1)
    controller = Controller(server_params, model_store_config=config)
    session = DriverSession(controller, [Adds(1)], TerminationSignals(execution_cutoff_time_mins=10))
    running = asyncio.create_task(session.run())
    async for event in session.events():
        if isinstance(event, ModelPublished):
            break
    (tmp_path / "models" / ".unfinished").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"{tmp_path}/models: .*No such file"):
        await running
    assert not controller.is_open
