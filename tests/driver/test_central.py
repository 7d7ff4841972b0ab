"""A session's `evaluate` measures each global model at the driver, and the record has it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from pathlib import Path

import pytest
from durability.in_process import Counts
from federations import PATIENCE_S, Adds, nothing_left_behind, until

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.federation.inputs import CentralEvaluation
from metisfl_async.core.model import Array
from metisfl_async.driver import central
from metisfl_async.driver.central import Evaluate
from metisfl_async.events import FederationResumed, ModelEvaluated, ModelPublished, RoundFinished, TaskFailed

SCORE = TerminationSignals(evaluation_metric="central/highest", evaluation_metric_cutoff_score=3.0)
ROUNDS = TerminationSignals(federation_rounds=2)


def server(over_grpc: bool) -> ServerParams | None:
    return ServerParams() if over_grpc else None


@pytest.mark.parametrize("over_grpc", [False, True], ids=["in memory", "over gRPC"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_each_model_is_measured_in_its_round(over_grpc: bool, is_async: bool) -> None:
    calls: list[tuple[int, bool]] = []

    def highest(parameters: list[Array], round_number: int) -> dict[str, float]:
        calls.append((round_number, threading.current_thread() is threading.main_thread()))
        return {"highest": float(parameters[0].max())}

    async def highest_async(parameters: list[Array], round_number: int) -> dict[str, float]:
        return highest(parameters, round_number)

    async with nothing_left_behind():
        evaluate = highest_async if is_async else highest
        session = DriverSession(Controller(server(over_grpc)), [Adds(1)], SCORE, evaluate=evaluate)
        running = asyncio.create_task(session.run())
        events = [event async for event in session.events()]
        result = await running
    assert calls == [(1, is_async), (2, is_async), (3, is_async)]
    assert [record.central for record in result.rounds] == [{"highest": 1.0}, {"highest": 2.0}, {"highest": 3.0}]
    assert result.reason == "central/highest=3 reached evaluation_metric_cutoff_score=3"
    kinds = (ModelPublished, ModelEvaluated, RoundFinished)
    assert [type(event) for event in events if isinstance(event, kinds)] == [*kinds] * 3


async def test_a_function_that_fails_costs_its_metrics_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def evaluate(parameters: list[Array], round_number: int) -> dict[str, float] | None:
        if round_number == 1:
            raise ValueError("no data here")
        return None

    session = DriverSession(Controller(), [Adds(1)], ROUNDS, evaluate=evaluate)
    with caplog.at_level(logging.ERROR):
        result = await session.run()
    assert [record.central for record in result.rounds] == [{}, {}]
    (failure,) = [event async for event in session.events() if isinstance(event, TaskFailed)]
    assert failure == TaskFailed(1, "the driver", "evaluate", "ValueError", "no data here")
    assert caplog.text.count("the session's evaluate() failed in round 1") == 1


def stops_iterating(parameters: list[Array], round_number: int) -> dict[str, float]:
    return next(iter(()))


def exits(parameters: list[Array], round_number: int) -> dict[str, float]:
    sys.exit(3)


async def exits_on_loop(parameters: list[Array], round_number: int) -> dict[str, float]:
    sys.exit(3)


async def is_cancelled(parameters: list[Array], round_number: int) -> dict[str, float]:
    raise asyncio.CancelledError("by itself")


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (stops_iterating, "StopIteration: "),
        (exits, "SystemExit: 3"),
        (exits_on_loop, "SystemExit: 3"),
        (is_cancelled, "CancelledError: by itself"),
    ],
)
async def test_nor_does_one_that_raises_what_would_end_or_hang_a_loop(evaluate: Evaluate, message: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        session = DriverSession(Controller(), [Adds(1)], ROUNDS, evaluate=evaluate)
        result = await session.run()
    assert result.reason == "federation_rounds=2 reached"
    failures = [event.message async for event in session.events() if isinstance(event, TaskFailed)]
    assert failures == [message, message]


async def test_the_controller_hears_that_a_slow_function_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central, "BEAT_S", 0.01)
    told: list[bool] = []

    async def evaluate(parameters: list[Array], round_number: int) -> dict[str, float]:
        await until(lambda: len(told) >= 3)
        return {"beats": 3.0}

    tell = central.Central._tell

    async def counted(self: central.Central, federation_id: object, report: CentralEvaluation) -> None:
        told.append(report.metrics is not None)
        await tell(self, federation_id, report)  # type: ignore[arg-type]

    monkeypatch.setattr(central.Central, "_tell", counted)
    result = await DriverSession(
        Controller(), [Adds(1)], TerminationSignals(federation_rounds=1), evaluate=evaluate
    ).run()
    assert result.rounds[0].central == {"beats": 3.0}
    assert told == [*[False] * (len(told) - 1), True]


async def test_a_stop_does_not_wait_for_it() -> None:
    is_called, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def evaluate(parameters: list[Array], round_number: int) -> dict[str, float]:
        loop.call_soon_threadsafe(is_called.set)
        may_end.wait(PATIENCE_S)
        return {}

    session = DriverSession(Controller(), [Adds(1)], ROUNDS, evaluate=evaluate)
    running = asyncio.create_task(session.run())
    await is_called.wait()
    await session.stop("enough")
    result = await running
    may_end.set()
    assert (result.reason, len(result.rounds)) == ("enough", 1)


async def test_a_session_that_goes_on_measures_again_and_says_the_same(tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    learners, signals = [Counts(1)], TerminationSignals(federation_rounds=3)
    measured: list[int] = []

    async def evaluate(parameters: list[Array], round_number: int) -> dict[str, float]:
        measured.append(round_number)
        if measured == [1, 2]:
            await asyncio.Event().wait()  # until the controller is killed
        return {"highest": float(parameters[0].max())}

    async with asyncio.timeout(PATIENCE_S):
        first = Controller(None, ControllerConfig(), store)
        running = asyncio.create_task(DriverSession(first, learners, signals, evaluate=evaluate).run())
        await until(lambda: measured == [1, 2])
        await first.abort()
        running.cancel()
        await asyncio.wait([running])
        again = Controller(None, ControllerConfig(), store)
        with pytest.raises(ConfigError, match="evaluate is None; allowed: a function: each round of the federation"):
            await DriverSession(again, learners, signals).run(resume=True)
        session = DriverSession(again, learners, signals, evaluate=evaluate)
        result = await session.run(resume=True)
    assert measured == [1, 2, 2, 3]
    assert [record.central["highest"] for record in result.rounds] == [1.0, 2.0, 3.0]
    assert any(isinstance(event, FederationResumed) for event in [event async for event in session.events()])


async def test_it_is_a_function_and_for_rounds() -> None:
    with pytest.raises(ConfigError, match=r"evaluate is 3; allowed: a function \(parameters, round_number\)"):
        DriverSession(ClientParams(), 1, ROUNDS, evaluate=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"allowed: a function \(parameters, round_number\) -> metrics"):
        DriverSession(ClientParams(), 1, ROUNDS, evaluate=lambda parameters: {})  # type: ignore[arg-type,misc]
    DriverSession(ClientParams(), 1, ROUNDS, evaluate=dict.update)  # type: ignore[arg-type] # it does not say what it takes
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedAsync")
    with pytest.raises(ConfigError, match="evaluate is 'a function'; allowed: None with Asynchronous"):
        DriverSession(Controller(None, config), [Adds(1)], TerminationSignals(global_updates=1), evaluate=lambda *_: {})
    async with Controller(ServerParams(), config) as controller:  # and where only the controller knows
        updates = TerminationSignals(global_updates=1)
        with pytest.raises(ConfigError, match="evaluate is 'a function'; allowed: None with Asynchronous"):
            await DriverSession(controller.client_params, 1, updates, evaluate=lambda *_: {}).run()
