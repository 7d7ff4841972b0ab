"""Federations whose models travel in fewer bytes train as a few lines of NumPy say."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import numpy as np
import pytest
from coded_values import as_bf16, said
from federations import PATIENCE_S, Adds, nothing_left_behind, session_of
from wandering import ROUNDS, SIZE, Wanders, expected

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

CODECS = ("raw", "bf16", "int8", "topk:0.05")


@pytest.mark.parametrize("over_grpc", [False, True], ids=["in memory", "over gRPC"])
@pytest.mark.parametrize("codec", CODECS)
async def test_a_federation_trains_as_numpy_says(codec: str, over_grpc: bool) -> None:
    config = ControllerConfig(update_codec=codec, evaluate_every=0)
    result = await session_of([Wanders(1), Wanders(3)], ROUNDS, over_grpc=over_grpc, config=config).run()
    assert result.final_model is not None
    np.testing.assert_array_max_ulp(result.final_model[0], expected(codec), maxulp=2)
    assert result.final_model[1] == ROUNDS
    received = result.rounds[-1].bytes_received / (2 * 4 * SIZE)
    assert received == pytest.approx({"raw": 1, "bf16": 0.5, "int8": 0.25, "topk:0.05": 0.1}[codec], abs=0.01)


@pytest.mark.parametrize(("codec", "down"), [*((codec, "bf16") for codec in CODECS), ("int8", "int8")])
async def test_learners_train_from_a_rounded_model_and_change_the_exact_one(codec: str, down: str) -> None:
    config = ControllerConfig(update_codec=codec, download_codec=down, evaluate_every=0)
    learners = [Wanders(1), Wanders(3)]
    result = await session_of(learners, ROUNDS, over_grpc=True, config=config).run()
    assert result.final_model is not None
    np.testing.assert_array_max_ulp(result.final_model[0], expected(codec, down), maxulp=2)
    sent = result.rounds[-1].bytes_sent / (2 * 4 * SIZE)
    assert sent == pytest.approx({"bf16": 0.5, "int8": 0.25}[down], abs=0.01)
    assert all(part.fetch_ms is not None for part in result.rounds[-1].learners.values())  # fewer bytes are all of it
    for learner in learners:
        *rounded, final = learner.fetched
        assert all(np.allclose(array, said(down, array), rtol=1e-6) for array in rounded)
        np.testing.assert_array_equal(final, result.final_model[0])  # the result is the same for all, to the bit


async def test_a_learner_that_does_not_know_the_download_codec_asks_for_models_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metisfl_async.learner.client.DOWNLOAD_CODECS", ("raw",))
    config = ControllerConfig(download_codec="bf16", evaluate_every=0)
    result = await session_of([Wanders(1), Wanders(3)], ROUNDS, over_grpc=True, config=config).run()
    assert result.final_model is not None
    np.testing.assert_array_max_ulp(result.final_model[0], expected("raw"), maxulp=2)


@pytest.mark.parametrize("scheduler", ["Asynchronous"])
async def test_without_rounds_models_go_down_in_fewer_bytes_too(scheduler: str) -> None:
    config = ControllerConfig(scheduler=scheduler, download_codec="bf16")
    controller = Controller(ServerParams(), config)
    learner = Wanders(1)
    await DriverSession(controller, [learner], TerminationSignals(global_updates=4)).run()
    assert all((array == as_bf16(array)).all() for array in learner.fetched[:-1])


async def test_coding_leaves_no_thread_behind() -> None:
    config = ControllerConfig(update_codec="int8", download_codec="bf16")
    learners = [Adds(1, 100_000), Adds(3, 100_000)]  # large enough to be coded in threads
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind():
        result = await session_of(learners, 2, over_grpc=True, config=config).run()
        assert result.final_model is not None
        np.testing.assert_allclose(result.final_model[0], 5.0, rtol=1e-5)


@pytest.mark.parametrize("rule", ["TrimmedMean", "FedAdam"])
async def test_every_rule_gets_whole_updates(rule: str) -> None:
    raw = ControllerConfig(aggregation_rule=rule, min_learners=3, evaluate_every=0)
    coded, exact = [
        (await session_of([Wanders(1), Wanders(3), Wanders(5)], 1, config=config).run()).final_model
        for config in (replace(raw, update_codec="int8"), raw)
    ]
    assert coded is not None
    assert exact is not None
    assert 0 < np.abs(coded[0] - exact[0]).max() < 0.01


async def test_an_update_that_is_not_finite_travels_raw_and_is_refused_by_its_tensor() -> None:
    class Diverges(Wanders):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            parameters[0][7] = np.inf
            return super().train(parameters, config)

    config = ControllerConfig(update_codec="int8", evaluate_every=0)
    result = await session_of([Wanders(1), Diverges(3)], 1, config=config).run()
    (failure,) = result.rounds[0].learners["learner-1"].failures
    assert "tensor '0' holds a value that is not finite" in failure.message


async def test_a_learner_that_does_not_know_the_codec_sends_its_updates_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metisfl_async.learner.shrinking.coding_of", lambda codec: None)
    caplog.set_level(logging.WARNING, "metisfl_async.learner")
    config = ControllerConfig(update_codec="int8", evaluate_every=0)
    result = await session_of([Wanders(1), Wanders(3)], ROUNDS, config=config).run()
    assert result.final_model is not None
    np.testing.assert_array_max_ulp(result.final_model[0], expected("raw"), maxulp=2)
    assert [record.getMessage() for record in caplog.records] == [
        "the update_codec 'int8' is not known here; updates travel as they are"
    ] * 2
