"""A learner's side: it keeps its tasks through whatever happens to the connection."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, session_of, until
from proxy import proxy_to

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.compat import app
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.ids import ModelRef, Token
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Bytes, Model, allocate
from metisfl_async.events import FederationStarted, LearnerJoined, LearnerLeft
from metisfl_async.learner import client
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.spool import Spool, Spooled
from metisfl_async.transport import grpc_caller
from metisfl_async.transport.grpc_link import GrpcLink

ROUND = TerminationSignals(federation_rounds=1)


async def test_it_goes_on_training_through_a_broken_connection() -> None:
    learner = AddsOnLoop(2)
    learner.may_train.clear()
    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        taking_part = asyncio.create_task(run_learner(learner, proxy.params, learner_id="a"))
        session = DriverSession(controller, 1, ROUND)
        running = asyncio.create_task(session.run())
        await learner.is_training.wait()
        proxy.cut()
        kinds: list[type] = []
        async for event in session.events():
            kinds.append(type(event))
            if kinds.count(LearnerJoined) == 2:
                learner.may_train.set()
        result = await running
        await taking_part
    assert LearnerLeft in kinds
    assert len(learner.configs) == 1  # it did not train again
    assert result.rounds[0].participants == ["a"]


@pytest.mark.parametrize("cut_after", [200_000, 1_500_000, 3_900_000, 4_194_304])
async def test_an_update_cut_off_anywhere_is_sent_again_and_counts_once(cut_after: int) -> None:
    learner = Adds(2, size=2**20)
    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        session = DriverSession(controller, 1, ROUND, initial_weights=learner.get_weights())
        proxy.cut_after = cut_after
        taking_part = asyncio.create_task(run_learner(learner, proxy.params))
        async with asyncio.timeout(PATIENCE_S):
            result = await session.run()
            await taking_part
    assert result.final_model is not None
    assert result.final_model[0][0] == 2.0
    assert len(learner.configs) == 1
    assert proxy.bytes_up > 2**22 + cut_after


async def test_an_evaluation_result_is_kept_through_a_broken_connection() -> None:
    class Evaluates(AddsOnLoop):
        evaluations = 0

        async def evaluate(self, parameters: list[Array], config: Config) -> Metrics:  # type: ignore[override]
            self.evaluations += 1
            proxy.cut()
            return {"accuracy": 0.5}

    learner = Evaluates(1)
    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        taking_part = asyncio.create_task(run_learner(learner, proxy.params))
        async with asyncio.timeout(PATIENCE_S):
            result = await DriverSession(controller, 1, ROUND).run()
            await taking_part
    assert result.rounds[0].evaluation_metrics == {"accuracy": 0.5}
    assert learner.evaluations == 1


async def test_the_final_model_is_fetched_through_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, cuts = GrpcLink.fetch_model, 0

    async def cut_and_fetch(link: GrpcLink, token: Token, model: ModelRef, *rest: Any, **named: Any) -> Model:
        nonlocal cuts
        if model.version == 1 and not cuts:
            cuts += 1
            proxy.cut()
        return await fetch(link, token, model, *rest, **named)

    monkeypatch.setattr(GrpcLink, "fetch_model", cut_and_fetch)
    learner = Adds(2)
    config = ControllerConfig(evaluate_every=0)
    async with Controller(ServerParams(), config) as controller, proxy_to(controller) as proxy:
        taking_part = asyncio.create_task(run_learner(learner, proxy.params))
        async with asyncio.timeout(PATIENCE_S):
            await DriverSession(controller, 1, ROUND).run()
            await taking_part
    assert cuts == 1
    assert learner.taken_over[-1][0] == 2.0


async def test_the_final_model_is_fetched_again_however_long_the_first_attempt_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch, attempts = GrpcLink.fetch_model, 0

    async def lose_late(link: GrpcLink, token: Token, model: ModelRef, *rest: Any, **named: Any) -> Model:
        nonlocal attempts
        if model.version == 1 and (attempts := attempts + 1) == 1:
            await asyncio.sleep(3 * client.GOODBYE_S)
            raise ConnectionLost(link.address, "the stream broke off")
        return await fetch(link, token, model, *rest, **named)

    monkeypatch.setattr(GrpcLink, "fetch_model", lose_late)
    monkeypatch.setattr(client, "GOODBYE_S", 0.2)
    learner = Adds(2)
    config = ControllerConfig(evaluate_every=0)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params))
        await DriverSession(controller, 1, ROUND).run()
        await taking_part
    assert attempts == 2
    assert learner.taken_over[-1][0] == 2.0


async def test_work_that_is_not_wanted_any_more_is_cancelled() -> None:
    class Slow(AddsOnLoop):
        cancelled = 0

        async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            raise AssertionError

    slow = Slow(1)
    config = ControllerConfig(round_timeout_secs=0.1)
    result = await session_of([Adds(1), slow], rounds=2, config=config).run()
    assert slow.cancelled == 2
    assert [record.participants for record in result.rounds] == [["learner-0"]] * 2
    assert len(slow.taken_over) == 2  # it lives on, and has the final weights


async def test_an_update_that_is_dropped_while_it_is_saved_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_save, save, loop, is_saving = threading.Event(), Spool._save, asyncio.get_running_loop(), asyncio.Event()

    def held(spool: Spool, spooled: Spooled) -> None:
        loop.call_soon_threadsafe(is_saving.set)
        may_save.wait(PATIENCE_S)
        save(spool, spooled)

    monkeypatch.setattr(Spool, "_save", held)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        learner = run_learner(Adds(1), controller.client_params, spool_dir=tmp_path)
        taking_part = asyncio.create_task(learner)
        session = DriverSession(controller.client_params, 1, ROUND)
        running = asyncio.create_task(session.run())
        await is_saving.wait()
        await session.stop()
        await until(lambda: controller.snapshot().phase == "finished")
        may_save.set()
        await running
        await taking_part
    assert os.listdir(tmp_path) == [".lock"]


async def test_a_failing_evaluation_or_take_over_hurts_nobody() -> None:
    class Fragile(Adds):
        def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
            raise RuntimeError("no test data")

        def set_weights(self, parameters: list[Array]) -> None:
            if parameters[0][0]:
                raise RuntimeError("cannot take over")

    async with nothing_left_behind():
        result = await session_of([Adds(1), Fragile(1)], rounds=1).run()
    (failure,) = result.rounds[0].learners["learner-1"].failures
    assert (failure.task, failure.type, failure.message) == ("evaluate", "RuntimeError", "no test data")
    assert result.rounds[0].evaluation_metrics == {"accuracy": 1.0}


async def test_a_learner_that_failed_to_take_over_first_weights_tries_again() -> None:
    class Stumbles(Adds):
        def set_weights(self, parameters: list[Array]) -> None:
            super().set_weights(parameters)
            if len(self.taken_over) == 1:
                raise RuntimeError("not yet")

        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            assert len(self.taken_over) == 2
            return super().train(parameters, config)

    result = await session_of([Stumbles(1)], rounds=1).run()
    assert [record.is_published for record in result.rounds] == [False, True]
    assert result.rounds[0].learners["learner-0"].failures[0].message == "not yet"


async def test_methods_run_one_at_a_time_and_never_on_the_loop() -> None:
    class Watches(Adds):
        def __init__(self) -> None:
            super().__init__(1)
            self.running = 0
            self.threads: set[str] = set()

        def _watch(self) -> None:
            self.running += 1
            self.threads.add(threading.current_thread().name)
            assert self.running == 1
            self.running -= 1

        def get_weights(self) -> list[Array]:
            self._watch()
            return super().get_weights()

        def set_weights(self, parameters: list[Array]) -> None:
            self._watch()

        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            self._watch()
            return super().train(parameters, config)

        def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
            self._watch()
            return super().evaluate(parameters, config)

    learner = Watches()
    await session_of([learner], rounds=3).run()
    assert learner.threads
    assert threading.main_thread().name not in learner.threads


async def test_an_executor_of_the_users_is_used_and_not_closed() -> None:
    with ThreadPoolExecutor(2, "mine") as executor:
        names: set[str] = set()

        class Named(Adds):
            def train(self, parameters: list[Array], config: Config) -> TrainResult:
                names.add(threading.current_thread().name.split("_")[0])
                return super().train(parameters, config)

        session = DriverSession(Controller(), [Named(1), Named(1)], ROUND, worker=executor)
        await session.run()
        assert names == {"mine"}
        assert executor.submit(int).result() == 0


async def test_heartbeats_go_on_while_a_thread_trains() -> None:
    may_end = threading.Event()

    class Blocks(Adds):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            assert may_end.wait(PATIENCE_S)
            return super().train(parameters, config)

    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=2.0)
    async with Controller(ServerParams(), config) as controller:
        running = asyncio.create_task(DriverSession(controller, [Blocks(1)], ROUND).run())
        loop = asyncio.get_running_loop()
        start = loop.time()
        await until(lambda: loop.time() - start > 1.5 * config.lease_secs)
        silences = controller.longest_silences_ms()
        may_end.set()
        result = await running
    assert list(silences) == ["learner-0"]
    assert result.rounds[0].participants == ["learner-0"]  # no lease expired


def test_app_is_run_learner_as_a_plain_call() -> None:
    with pytest.raises(ConfigError, match="subclass of Learner"):
        app(object(), ClientParams())  # type: ignore[arg-type]

    async def serve() -> int:
        async with Controller(ServerParams()) as controller:
            params = controller.client_params
            thread = threading.Thread(target=lambda: app(Adds(1), params))
            thread.start()
            result = await DriverSession(controller, 1, ROUND).run()
            thread.join()
            return result.model_version or 0

    assert asyncio.run(serve()) == 1


@pytest.mark.parametrize("over_grpc", [False, True])
async def test_a_learner_may_change_what_it_is_given_and_gets_it_whole_again(over_grpc: bool) -> None:
    class Spoils(Adds):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            self.taken_over.append([parameters[0].copy()])
            parameters[0] += self.number
            if len(self.taken_over) % 2 == 0:
                raise RuntimeError("once more")
            return parameters, {}

        def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
            metrics = super().evaluate(parameters, config)
            parameters[0] += 1000
            return metrics

        def set_weights(self, parameters: list[Array]) -> None:
            parameters[0] += 1000

    learner = Spoils(1)
    result = await session_of([learner], 3, over_grpc=over_grpc).run()
    assert [float(weights[0][0]) for weights in learner.taken_over] == [0, 1, 1, 2, 2]
    assert [record.evaluation_metrics["accuracy"] for record in result.rounds if record.participants] == [1, 2, 3]


async def test_models_are_received_in_the_memory_of_the_ones_before() -> None:
    used_again: list[bool] = []

    def spy(size_bytes: int, again: Bytes | None = None) -> Bytes:
        made = allocate(size_bytes, again)
        used_again.append(made is again)
        return made

    with mock.patch.object(grpc_caller, "allocate", spy):
        result = await session_of([Adds(1, 10_000)], 3, over_grpc=True).run()
    assert used_again == [False, True, True, True, False]  # versions 0 to 3, and the driver's
    assert result.final_model is not None
    assert (result.final_model[0] == 3.0).all()


@pytest.mark.parametrize("kind", [Adds, AddsOnLoop])
@pytest.mark.parametrize("over_grpc", [False, True])
async def test_what_a_learner_was_given_stays_its_own(kind: type[Adds], over_grpc: bool) -> None:
    """Memory is used again: that of updates, and never what somebody may have kept."""

    class Keeps(kind):  # type: ignore[misc,valid-type]
        def kept(self, parameters: list[Array]) -> None:
            self.taken_over.append(parameters)
            parameters[0][:] = len(self.taken_over)

        def set_weights(self, parameters: list[Array]) -> None:
            self.kept(parameters)

        def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
            self.kept(parameters)
            return {}

    async def train_on_loop(learner: Any, parameters: list[Array], config: Config) -> TrainResult:
        return train(learner, parameters, config)

    def train(learner: Any, parameters: list[Array], config: Config) -> TrainResult:
        learner.kept(parameters)
        return parameters, {}

    Keeps.train = train_on_loop if kind is AddsOnLoop else train
    learner = Keeps(1, 1000)
    await session_of([learner], 4, over_grpc=over_grpc).run()
    assert len(learner.taken_over) == 10  # the first weights, 4 times two tasks, the final model
    for number, parameters in enumerate(learner.taken_over, 1):
        assert (parameters[0] == number).all()
    for one, other in combinations(learner.taken_over, 2):
        assert not np.shares_memory(one[0], other[0])


async def test_two_learners_under_one_name_take_turns() -> None:
    async with Controller(ServerParams()) as controller:
        first = asyncio.create_task(run_learner(Adds(1), controller.client_params, learner_id="a"))
        session = DriverSession(controller, 1, TerminationSignals(federation_rounds=1_000_000))
        running = asyncio.create_task(session.run())
        events = session.events()
        assert isinstance(await anext(events), FederationStarted)
        assert isinstance(await anext(events), LearnerJoined)
        second = asyncio.create_task(run_learner(Adds(2), controller.client_params, learner_id="a"))
        first.cancel()
        async for event in events:
            if isinstance(event, LearnerJoined):
                break
        await session.stop()
        await running
        await second


@pytest.mark.parametrize("learner_id", ["x" * 129, "a\nb"])
async def test_an_impossible_name_is_refused(learner_id: str) -> None:
    async with Controller(ServerParams()) as controller:
        with pytest.raises(ConfigError, match="learner_id"):
            await run_learner(Adds(1), controller.client_params, learner_id=learner_id)


async def test_without_a_name_the_controller_numbers_the_learners() -> None:
    async with Controller(ServerParams()) as controller:
        learners = [asyncio.create_task(run_learner(Adds(1), controller.client_params)) for _ in range(3)]
        result = await DriverSession(controller, 3, ROUND).run()
        await asyncio.gather(*learners)
    assert result.rounds[0].participants == ["learner-1", "learner-2", "learner-3"]


def test_an_incomplete_learner_cannot_be_made() -> None:
    class Incomplete(Learner):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()  # type: ignore[abstract]
