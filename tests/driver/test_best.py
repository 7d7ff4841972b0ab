"""The model that scored best is kept beside the last one, and is in the result."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, until

from metisfl_async import (
    BestScore,
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.controller.service import Service
from metisfl_async.core.access import Caller
from metisfl_async.core.errors import UnknownFederation
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import Status
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config

PEAK = ControllerConfig(best_metric="peak")
FIVE = TerminationSignals(federation_rounds=5)
WEIGHTS = {"w": np.zeros(1, np.float32), "n": np.array(1, np.int64)}


class Peaks(Adds):
    """Is best at a certain value of the model; what comes after is worse."""

    def __init__(self, at: float) -> None:
        super().__init__(1)
        self.at, self.measured = at, 0

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        self.measured += 1
        return {"peak": -abs(float(parameters[0][0]) - self.at)}


def check(result: FederationResult, best: BestScore) -> None:
    assert result.best == best
    assert result.final_model is not None
    assert result.best_model is not None
    assert (result.final_model[0].item(), result.best_model[0].item()) == (5.0, best.model_version)


@pytest.mark.parametrize("server", [None, ServerParams()], ids=["in memory", "over gRPC"])
@pytest.mark.parametrize("at", [2.0, 9.0])
async def test_it_is_in_the_result_with_its_version_and_round(server: ServerParams | None, at: float) -> None:
    result = await DriverSession(Controller(server, PEAK), [Peaks(at)], FIVE, initial_weights=WEIGHTS).run()
    version = int(min(at, 5.0))
    check(result, BestScore("peak", version - at, version, version))


async def test_the_sessions_own_measure_may_choose_it() -> None:
    def evaluate(parameters: list[Array], round_number: int) -> Metrics:
        return {"loss": abs(float(parameters[0][0]) - 3.0)}

    config = ControllerConfig(best_metric="central/loss", best_mode="min", evaluate_every=0)
    result = await DriverSession(Controller(None, config), [Adds(1)], FIVE, evaluate=evaluate).run()
    check(result, BestScore("central/loss", 0.0, 3, 3))


def test_a_session_that_does_not_measure_it_is_refused() -> None:
    controller = Controller(None, ControllerConfig(best_metric="central/loss"))
    with pytest.raises(ConfigError, match="if it is given `evaluate`"):
        DriverSession(controller, [Adds(1)], FIVE)


async def test_a_metric_that_nobody_measures_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = await DriverSession(Controller(None, ControllerConfig(best_metric="f1")), [Adds(1)], FIVE).run()
    assert (result.best, result.best_model) == (None, None)
    assert caplog.messages[0] == "no model is the best by best_metric 'f1', which nobody measures: accuracy"


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_killed_controller_still_has_it(
    tmp_path: Path, free_port: int, is_damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    server, dial = ServerParams(port=free_port), ClientParams(port=free_port)
    learner = Peaks(1.0)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        first = await Controller(server, PEAK, store).__aenter__()
        group.create_task(run_learner(learner, dial, learner_id="site"))
        running = group.create_task(DriverSession(dial, 1, FIVE, initial_weights=WEIGHTS).run())
        await until(lambda: learner.measured >= 3)
        await first.abort()
        (file,) = await asyncio.to_thread(lambda: list(tmp_path.glob("*/best/*.safetensors")))
        if is_damaged:
            file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ConfigError, match="best_metric"):
            await Controller(server, ControllerConfig(best_metric="other"), store, resume=True).__aenter__()
        async with Controller(server, PEAK, store, resume=True):
            result = await running
    if is_damaged:
        assert "the best model is gone, and is chosen anew from now on" in caplog.text
        assert result.best is not None
        assert result.best.model_version > 1
        check(result, result.best)
    else:
        check(result, BestScore("peak", 0.0, 1, 1))


@pytest.mark.parametrize("theirs", [None, BestScore("peak", 7.0, 5, 5)], ids=["none", "the same version"])
async def test_that_of_another_federation_is_not_taken_for_its_own(
    theirs: BestScore | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller is started again, and begins another federation, between the latest model and the best one."""
    other, status = FederationId("e" * 32), Service.status

    async def status_of_another_one(service: Service, caller: Caller) -> Status:
        true = await status(service, caller)
        return Status(other, is_finished=True, best=theirs) if true.is_finished else true

    monkeypatch.setattr(Service, "status", status_of_another_one)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(UnknownFederation) as caught:
            await DriverSession(Controller(None, PEAK), [Peaks(1.0)], FIVE).run()
    assert caught.value.running == other
