"""Updates in fewer bytes through restarts: of the controller, which changes nothing, and of a learner."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from federations import PATIENCE_S, until
from wandering import ROUNDS, Wanders, expected, step

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
from metisfl_async.codec.frame import Header
from metisfl_async.core.config.sameness import check_same, facts_of
from metisfl_async.core.ids import Token
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.transport.grpc_link import GrpcLink

CONFIG = ControllerConfig(update_codec="topk:0.05", download_codec="bf16", evaluate_every=0)


class Counts(Wanders):
    """Notes in which rounds it trained."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.trained: list[Json] = []

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.trained.append(config["round_number"])
        return super().train(parameters, config)


async def test_a_controller_that_is_killed_and_started_again_hears_the_same_updates(
    tmp_path: Path, free_port: int
) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    server, dial = ServerParams(port=free_port), ClientParams(port=free_port)
    learners = [Counts(1), Counts(3)]
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        first = await Controller(server, CONFIG, store).__aenter__()
        for learner in learners:
            group.create_task(run_learner(learner, dial, learner_id=f"site-{learner.number}"))
        signals = TerminationSignals(federation_rounds=ROUNDS)
        running = group.create_task(DriverSession(dial, 2, signals, initial_weights=learners[0].get_weights()).run())
        await until(lambda: len(learners[0].trained) >= 2)
        await first.abort()
        async with Controller(server, CONFIG, store, resume=True):
            result = await running
    assert result.final_model is not None
    np.testing.assert_array_max_ulp(result.final_model[0], expected("topk:0.05", "bf16"), maxulp=2)
    assert [learner.trained for learner in learners] == [[1, 2, 3]] * 2


def test_with_another_codec_a_federation_does_not_go_on() -> None:
    before = facts_of(CONFIG)
    check_same(before, facts_of(CONFIG))
    with pytest.raises(ConfigError, match=r"update_codec was 'topk:0\.05', and is 'raw'; download_codec was 'bf16'"):
        check_same(before, facts_of(ControllerConfig()))


async def test_a_learner_that_is_started_again_sends_what_it_spooled_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs: list[str] = []
    send, never = GrpcLink.train_done, asyncio.Event()

    async def hang_once(link: GrpcLink, token: Token, header: Header, update: Model) -> UpdateReply:
        codecs.append(header.codec)
        if len(codecs) == 1:
            await never.wait()
        return await send(link, token, header, update)

    monkeypatch.setattr(GrpcLink, "train_done", hang_once)
    before, after = Counts(1), Counts(2)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), CONFIG) as controller:
        signals = TerminationSignals(federation_rounds=1)
        first_weights = before.get_weights()
        running = asyncio.create_task(DriverSession(controller, 1, signals, initial_weights=first_weights).run())

        async def learn(learner: Wanders) -> None:
            await run_learner(learner, controller.client_params, learner_id="site", spool_dir=tmp_path)

        killed = asyncio.create_task(learn(before))
        await until(lambda: bool(codecs))
        killed.cancel()
        await asyncio.wait([killed])
        await learn(after)
        result = await running
    assert (before.trained, after.trained, codecs) == ([1], [], ["topk:0.05", "raw"])
    assert result.final_model is not None
    np.testing.assert_array_max_ulp(result.final_model[0], before.fetched[-1] + step(1, 1), maxulp=1)
