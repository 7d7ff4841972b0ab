"""Simulated learners that take time by the federation's clock, and are dealt to the workers by their size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import simulated

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    Learner,
    Simulation,
    TerminationSignals,
)
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, TaskId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.events import UpdateFolded
from metisfl_async.simulation.dealing import cut
from metisfl_async.simulation.errand import Task
from metisfl_async.strategies import FedRec
from metisfl_async.testing import run

TEN: dict[str, Any] = {
    "sizes": [60] * 10,
    "speeds": lambda number: 1.0 if number % 5 else 0.1,
}  # two of ten take ten minutes


def bits(result: FederationResult) -> bytes:
    assert result.final_model is not None
    assert not isinstance(result.final_model, dict)
    return result.final_model[0].tobytes()


def ran(
    simulation: Simulation, config: ControllerConfig, **signals: Any
) -> tuple[FederationResult, list[tuple[int, float]]]:
    """The result, and when each record was closed."""

    async def main() -> FederationResult:
        controller = Controller(controller_config=config)
        return await DriverSession(controller, simulation, TerminationSignals(**signals)).run()

    result = run(main())
    return result, [(record.number, round(record.duration_ms / 1e3, 3)) for record in result.rounds]


def with_any_workers(
    make_learner: Callable[[int], Learner], config: ControllerConfig, options: dict[str, Any], **signals: Any
) -> tuple[FederationResult, list[tuple[int, float]]]:
    """Run it with threads, and with two processes; nothing of the result may tell which."""
    with ThreadPoolExecutor(3) as threads:
        simulation = Simulation(make_learner, learners=10, executor=threads, **options)
        first, closed = ran(simulation, config, **signals)
    again, closed_again = ran(Simulation(make_learner, learners=10, workers=2, **options), config, **signals)
    assert closed_again == closed
    assert [record.participants for record in again.rounds] == [record.participants for record in first.rounds]
    assert bits(again) == bits(first)
    return first, closed


def test_who_is_too_slow_for_the_deadline_is_late_and_the_others_count() -> None:
    config = ControllerConfig(round_timeout_secs=300, evaluate_every=0)
    result, closed = with_any_workers(simulated.Draws, config, TEN, federation_rounds=3)
    assert closed == [(1, 300.0), (2, 300.0), (3, 300.0)]
    slow = {"learner-0", "learner-5"}
    for record in result.rounds:
        assert {name for name, part in record.learners.items() if part.train_state == "expired"} == slow
        assert {round(part.train_ms or 0) for name, part in record.learners.items() if name not in slow} == {60_000}


def test_without_a_deadline_a_round_lasts_as_long_as_its_slowest_learner() -> None:
    with ThreadPoolExecutor(3) as threads:
        simulation = Simulation(simulated.Draws, learners=10, executor=threads, **TEN)
        result, closed = ran(simulation, ControllerConfig(), federation_rounds=2)
        expected, _ = ran(
            Simulation(simulated.Draws, learners=10, executor=threads), ControllerConfig(), federation_rounds=2
        )
    assert closed == [(1, 600.0), (2, 600.0)]
    assert bits(result) == bits(expected)


def test_asynchronous_learners_report_as_often_as_they_are_fast() -> None:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule=FedRec(), evaluate_every=0)
    result, closed = with_any_workers(simulated.Draws, config, TEN, global_updates=100)
    counts = dict.fromkeys((f"learner-{number}" for number in range(10)), 0)
    for record in result.rounds:
        for name in record.participants:
            counts[name] += 1
    assert counts["learner-1"] >= 12
    assert counts["learner-0"] == 1
    assert sum(seconds for _, seconds in closed) == pytest.approx(780.0, abs=0.1)


def test_semi_synchronous_learners_are_given_as_much_as_they_do_in_the_time_of_the_slowest() -> None:
    config = ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=1.0, evaluate_every=0)
    result, closed = with_any_workers(simulated.Batches, config, TEN, federation_rounds=3)
    assert closed == [(1, 600.0), (2, 600.0), (3, 600.0)]
    batches = {name: part.train_metadata["num_completed_batches"] for name, part in result.rounds[2].learners.items()}
    assert batches == {f"learner-{number}": 100 if number % 5 else 10 for number in range(10)}


async def test_on_asyncios_own_loop_updates_come_in_that_order_too() -> None:
    with ThreadPoolExecutor(3) as threads:
        simulation = Simulation(simulated.Draws, learners=3, executor=threads, sizes=[30, 2, 10], speeds=[100.0] * 3)
        session = DriverSession(Controller(), simulation, TerminationSignals(federation_rounds=1))
        running = asyncio.create_task(session.run())
        folded = [event.learner async for event in session.events() if isinstance(event, UpdateFolded)]
        await running
    assert folded == ["learner-1", "learner-2", "learner-0"]


def tasks_of(numbers: Sequence[int]) -> list[Task]:
    ref = ModelRef(FederationId("f"), 0)
    return [
        Task(number, LearnerId(f"learner-{number}"), TaskOffer(TaskId(str(number)), TaskKind.TRAIN, 1, ref, {}))
        for number in numbers
    ]


def test_work_is_dealt_greedily() -> None:
    sizes = [float(1 + number % 7) for number in range(64)]
    errands = cut(tasks_of(range(64)), sizes, is_summed=True)
    assert sorted(task.number for errand in errands for task in errand) == list(range(64))
    assert len(errands) == 32
    loads = [sum(sizes[task.number] for task in errand) for errand in errands]
    assert loads == sorted(loads, reverse=True)
    assert max(loads) - min(loads) <= 1
    singles = cut(tasks_of([3, 1, 2, 0]), [1.0, 5.0, 2.0, 5.0], is_summed=False)
    assert [errand[0].number for errand in singles] == [1, 3, 2, 0]


def test_how_work_is_dealt_changes_no_bit_of_a_mean_of_float32() -> None:
    with ThreadPoolExecutor(3) as threads:
        results = [
            ran(
                Simulation(simulated.Draws, learners=70, executor=threads, sizes=sizes),
                ControllerConfig(),
                federation_rounds=2,
            )
            for sizes in (None, lambda number: 1 + number % 9)
        ]
    assert bits(results[0][0]) == bits(results[1][0])


def test_sizes_and_speeds_that_are_no_numbers_for_each_are_refused() -> None:
    with pytest.raises(ConfigError, match="sizes is '2 numbers'; allowed: one for each of the 3 learners, or a func"):
        Simulation(simulated.Draws, learners=3, sizes=[1, 2])
    with pytest.raises(ConfigError, match="sizes of learner 1 is 0; allowed: a finite number > 0"):
        Simulation(simulated.Draws, learners=3, sizes=range(1, -2, -1))
    with pytest.raises(ConfigError, match="speeds of learner 0 is 'fast'"):
        Simulation(simulated.Draws, learners=3, sizes=[1] * 3, speeds=lambda number: "fast")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sizes is None; allowed: what a task of each learner costs, with speeds"):
        Simulation(simulated.Draws, learners=3, speeds=[1] * 3)
