"""Simulated learners: the same federation as with learners of the session, whoever does the work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
from federations import PATIENCE_S, nothing_left_behind, session_of

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    Failure,
    FederationResult,
    MetisError,
    ModelStoreConfig,
    QuorumLost,
    ServerParams,
    Simulation,
    TerminationSignals,
)
from metisfl_async.core.messages import NO_ANSWERS
from metisfl_async.events import RoundStarted
from metisfl_async.strategies import FedAvg, FedRec, Median, Scheduler

HALF = ControllerConfig(participation_ratio=0.5)


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


def session(
    simulation: Simulation, config: ControllerConfig | None = None, rounds: int = 3, **options: Any
) -> DriverSession:
    controller = Controller(controller_config=config)
    return DriverSession(controller, simulation, TerminationSignals(federation_rounds=rounds), **options)


def weights(result: FederationResult) -> np.ndarray[Any, Any]:
    assert result.final_model is not None
    assert not isinstance(result.final_model, dict)
    return np.asarray(result.final_model[0])


def facts(result: FederationResult) -> list[dict[str, Any]]:
    """What of the records has nothing to do with time."""
    return [
        {
            "participants": record.participants,
            "train_metrics": record.train_metrics,
            "evaluation": record.evaluation_metrics,
            "learners": {
                name: (part.train_state, part.weight, part.train_metrics, part.train_metadata, part.update_norm)
                for name, part in sorted(record.learners.items())
            },
            "failures": {
                name: [(failure.task, failure.type, failure.message) for failure in part.failures]
                for name, part in sorted(record.learners.items())
            },
            "bytes": (record.bytes_sent, record.bytes_received),
        }
        for record in result.rounds
    ]


def cosines(result: FederationResult) -> list[float]:
    parts = [part for record in result.rounds for _, part in sorted(record.learners.items())]
    return [part.update_cosine or 0.0 for part in parts]


async def test_it_is_the_same_federation_as_with_live_learners(threads: Executor) -> None:
    live = await session_of([simulated.Draws(number) for number in range(40)], config=HALF).run()
    folded = await session(Simulation(simulated.Draws, learners=40, executor=threads), HALF).run()
    assert facts(folded) == facts(live)
    assert weights(folded).tobytes() == weights(live).tobytes()
    np.testing.assert_allclose(cosines(folded), cosines(live))


async def test_whoever_works_the_model_has_the_same_bits_in_float64_too() -> None:
    results = []
    for workers in (1, 2, 7):
        with ThreadPoolExecutor(workers) as executor:
            simulation = Simulation(simulated.in_float64, learners=40, executor=executor)
            results.append(weights(await session(simulation, HALF).run()))
    assert results[0].dtype == np.float64
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


def sevenths(learner: str, metadata: Mapping[str, Any], metrics: Mapping[str, float]) -> float:
    """Weights that no float64 holds exactly."""
    return (1 + int(learner.rpartition("-")[2])) / 7


async def test_live_learners_give_the_same_bits_in_float64_where_sums_are_reproducible(threads: Executor) -> None:
    rule = FedAvg(reproducible=True)
    config = ControllerConfig(participation_ratio=0.5, aggregation_rule=rule, scaling_factor=sevenths)
    live = weights(await session_of([simulated.in_float64(number) for number in range(40)], config=config).run())
    folded = weights(await session(Simulation(simulated.in_float64, learners=40, executor=threads), config).run())
    assert live.dtype == np.float64
    assert folded.tobytes() == live.tobytes()


async def test_processes_give_the_same_result_and_models_go_by_file(threads: Executor) -> None:
    expected = await session(Simulation(simulated.large, learners=6, executor=threads), rounds=2).run()
    async with nothing_left_behind():
        result = await session(Simulation(simulated.large, learners=6, workers=2), rounds=2).run()
    assert facts(result) == facts(expected)
    assert weights(result).tobytes() == weights(expected).tobytes()


async def test_failures_of_single_learners_are_on_record_as_those_of_live_ones_are(threads: Executor) -> None:
    live = await session_of([simulated.Fails(number) for number in range(12)], rounds=1).run()
    result = await session(Simulation(simulated.Fails, learners=12, executor=threads), rounds=1).run()
    (of_live,), (of_simulated,) = facts(live), facts(result)
    assert of_live.pop("bytes") > of_simulated.pop("bytes")  # an update that is not finite travels from a live one
    assert of_simulated == of_live
    states = {name: part.train_state for name, part in result.rounds[0].learners.items()}
    assert {name for name, state in states.items() if state != "counted"} == {
        "learner-1",
        "learner-4",
        "learner-7",
        "learner-10",
    }
    assert weights(result).tobytes() == weights(live).tobytes()


async def test_a_worker_that_dies_is_made_again_and_its_learners_are_tried_once_more(tmp_path: Path) -> None:
    config = ControllerConfig(train_params={"directory": str(tmp_path)}, evaluate_every=0)
    result = await session(Simulation(simulated.Dies, learners=3, workers=1), config, 1).run()
    record = result.rounds[0]
    assert record.participants == ["learner-0", "learner-1"]
    (failure,) = record.learners["learner-2"].failures
    assert (failure.type, failure.message[:22]) == ("WorkerDied", "the worker died, twice")


async def test_a_worker_that_dies_before_what_it_has_forked_is_missed_at_once(tmp_path: Path) -> None:
    config = ControllerConfig(train_params={"directory": str(tmp_path)}, evaluate_every=0)
    try:
        result = await session(Simulation(simulated.DiesBeforeItsChild, learners=2, workers=1), config, 1).run()
    finally:
        for child in (tmp_path / "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    record = result.rounds[0]
    assert record.participants == ["learner-0"]
    assert record.learners["learner-1"].failures[0].type == "WorkerDied"


class Impatient(Scheduler):
    """Does not wait for the last one."""

    def is_due(self, reported: Any, awaited: Any) -> bool:
        return len(awaited) <= 1


async def test_a_learner_that_is_not_waited_for_holds_up_nobody() -> None:
    config = ControllerConfig(scheduler=Impatient(), evaluate_every=0)
    async with nothing_left_behind():
        result = await session(
            Simulation(simulated.Hangs, learners=4, workers=2), config, 1, initial_weights=[np.zeros(1_000, np.float32)]
        ).run()
    record = result.rounds[0]
    assert record.participants == ["learner-1", "learner-2", "learner-3"]
    assert record.learners["learner-0"].train_state == "expired"


async def test_one_learner_is_alive_at_a_time_in_a_worker() -> None:
    result = await session(Simulation(simulated.Counts, learners=30, workers=2), rounds=1).run()
    parts = result.rounds[0].learners.values()
    assert {part.train_metrics["alive"] for part in parts} == {1.0}


async def test_workers_keep_the_learners_that_worked_last_and_the_result_is_the_same() -> None:
    results = [
        await session(Simulation(simulated.Kept, learners=4, workers=workers, cached=cached)).run()
        for workers, cached in ((1, 0), (1, 4), (1, 3), (2, 2))
    ]
    assert len({weights(result).tobytes() for result in results}) == 1
    made = [
        max(int(str(part.train_metadata["made"])) for part in result.rounds[-1].learners.values()) for result in results
    ]
    assert made[:2] == [25 - 4, 4]  # without: one for first weights, and for each task before the last evaluation
    assert made[2] > 4  # of four in turn, three kept are always the wrong ones


async def test_what_remembers_things_is_not_kept() -> None:
    with pytest.raises(QuorumLost, match="cached is 3; allowed: 0, or a learner with keeps_state = False"):
        await session(Simulation(simulated.Draws, learners=2, workers=1, cached=3)).run()


async def test_learners_may_have_coroutines(threads: Executor) -> None:
    expected = await session(Simulation(simulated.Draws, learners=3, executor=threads)).run()
    result = await session(Simulation(simulated.DrawsOnLoop, learners=3, executor=threads)).run()
    assert weights(result).tobytes() == weights(expected).tobytes()


async def test_a_rule_that_looks_at_each_update_gets_each(threads: Executor) -> None:
    config = ControllerConfig(aggregation_rule=Median(), min_learners=3)
    live = await session_of([simulated.Draws(number) for number in range(5)], config=config).run()
    result = await session(Simulation(simulated.Draws, learners=5, executor=threads), config).run()
    assert facts(result) == facts(live)
    assert weights(result).tobytes() == weights(live).tobytes()


async def test_without_rounds_each_update_makes_a_model(threads: Executor) -> None:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule=FedRec())
    simulation = Simulation(simulated.Draws, learners=5, executor=threads)
    controller, signals = Controller(controller_config=config), TerminationSignals(global_updates=20)
    result = await DriverSession(controller, simulation, signals).run()
    assert result.model_version is not None
    assert result.model_version >= 20


async def test_a_run_that_is_cancelled_leaves_nothing_behind() -> None:
    async with nothing_left_behind():
        endless = session(Simulation(simulated.Draws, learners=20, workers=1), rounds=10**6)
        run = asyncio.create_task(endless.run())
        async for event in endless.events():
            if type(event).__name__ == "RoundFinished":
                break
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert endless.result is not None
    assert endless.result.rounds


async def test_a_controller_that_is_started_again_goes_on_with_simulated_learners(
    threads: Executor, tmp_path: Path
) -> None:
    simulation = Simulation(simulated.Draws, learners=40, executor=threads)
    expected = await session(simulation, HALF, rounds=6).run()
    kept, signals = ModelStoreConfig(model_store="Disk", directory=tmp_path), TerminationSignals(federation_rounds=6)
    controller = Controller(controller_config=HALF, model_store_config=kept)
    before = DriverSession(controller, simulation, signals)
    run = asyncio.create_task(before.run())
    async for event in before.events():
        if isinstance(event, RoundStarted) and event.number == 3:
            break
    await controller.close()
    with pytest.raises(MetisError):
        await run
    again = Controller(controller_config=HALF, model_store_config=kept)
    result = await DriverSession(again, simulation, signals).run(resume=True)
    assert len(result.rounds) == 6
    assert weights(result).tobytes() == weights(expected).tobytes()


async def test_another_driver_hears_at_once_that_simulated_learners_answer_no_questions(threads: Executor) -> None:
    async with Controller(ServerParams()) as controller:
        simulation = Simulation(simulated.Draws, learners=3, executor=threads)
        endless = DriverSession(controller, simulation, TerminationSignals(federation_rounds=10**6))
        run = asyncio.create_task(endless.run())
        async for event in endless.events():
            if isinstance(event, RoundStarted):
                break
        async with asyncio.timeout(PATIENCE_S):
            answers = await DriverSession.attach(controller.client_params).ask("describe", timeout_secs=1_000.0)
        assert answers == dict.fromkeys(simulation.ids, Failure("describe", "UnexpectedMessage", NO_ANSWERS))
        await endless.stop()
        await run


async def test_learners_that_cannot_be_made_are_failures_and_not_a_crash(threads: Executor) -> None:
    simulation = Simulation(simulated.not_one, learners=2, executor=threads)
    with pytest.raises(QuorumLost, match="make_learner is 'str'; allowed: a function that gives a Learner"):
        await session(simulation).run()


def test_what_cannot_be_simulated_is_refused(threads: Executor) -> None:
    with pytest.raises(ConfigError, match="make_learner is 3; allowed: a function that makes the learner of a number"):
        Simulation(3, learners=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"make_learner is .*lambda.*; allowed: a function of a module"):
        Simulation(lambda number: simulated.Draws(number), learners=1)
    config = ControllerConfig(scaling_factor=lambda learner, metadata, metrics: 1.0)
    with pytest.raises(ConfigError, match=r"scaling_factor is .*lambda.*; allowed: a function of a module"):
        session(Simulation(simulated.Draws, learners=1), config)
    with pytest.raises(ConfigError, match="learners is 0"):
        Simulation(simulated.Draws, learners=0)
    with pytest.raises(ConfigError, match="workers is 0"):
        Simulation(simulated.Draws, learners=1, workers=0)
    with pytest.raises(ConfigError, match="workers is 2; allowed: None with an executor"):
        Simulation(simulated.Draws, learners=1, workers=2, executor=threads)
    with pytest.raises(ConfigError, match="executor is 'threads'"):
        Simulation(simulated.Draws, learners=1, executor="threads")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cached is -1"):
        Simulation(simulated.Draws, learners=1, cached=-1)
    with pytest.raises(ConfigError, match="cached is 2; allowed: 0 with an executor"):
        Simulation(simulated.Draws, learners=1, cached=2, executor=threads)
    simulation = Simulation(simulated.Draws, learners=3, executor=threads)
    with pytest.raises(ConfigError, match="a Controller of this process, for learners that are simulated"):
        DriverSession(ClientParams("localhost", 1), simulation, TerminationSignals(federation_rounds=1))
    with pytest.raises(ConfigError, match="min_learners is 4; allowed: at most the 3 learners of this session"):
        session(simulation, ControllerConfig(min_learners=4))


def test_it_is_short_to_look_at(threads: Executor) -> None:
    assert repr(Simulation(simulated.Draws, learners=100_000, workers=2)) == "Simulation(100000 learners, workers=2)"
    named = repr(Simulation(simulated.Draws, learners=2, executor=threads))
    assert named == "Simulation(2 learners, executor=ThreadPoolExecutor)"
