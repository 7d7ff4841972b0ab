"""Federations without rounds, over real connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind
from puppet import Puppet, puppet

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.core.errors import MetisError
from metisfl_async.core.federation.events import UpdateFolded
from metisfl_async.core.messages import Accept, Farewell, TaskOffer
from metisfl_async.core.model import Array
from metisfl_async.events import LearnerJoined, LearnerLeft, UpdateCounted
from metisfl_async.strategies import FedAsync, FedBuff

LEARNERS = 12


def asynchronous(rule: object = "FedRec", **options: object) -> ControllerConfig:
    return ControllerConfig(scheduler="Asynchronous", aggregation_rule=rule, **options)  # type: ignore[arg-type]


class Crowd:
    """Learners that join, report some random updates, leave, and join again."""

    def __init__(self, controller: Controller, size: int, seed: int) -> None:
        self.controller, self.size, self.random = controller, size, np.random.default_rng(seed)
        self.values: dict[float, Array] = {}  #: of each update, by its weight, which no other has

    async def live(self, name: str) -> None:
        """Come and go until the federation is over."""
        is_over = False
        while not is_over:
            async with puppet(self.controller, name) as learner:
                left_to_do = int(self.random.integers(0, 30))
                while (offer := await self.offered(learner)) is not None and left_to_do:
                    await self.report(learner, offer)
                    left_to_do -= 1
                is_over = offer is None
                if offer is not None:  # leave at some moment of it
                    reporting = asyncio.create_task(self.report(learner, offer))
                    for _ in range(int(self.random.integers(1, 300))):
                        await asyncio.sleep(0)
                    reporting.cancel()
                    with suppress(asyncio.CancelledError, MetisError):
                        await reporting
                with suppress(MetisError):
                    await learner.link.leave(learner.token)

    async def offered(self, learner: Puppet) -> TaskOffer | None:
        """Wait for a task and accept it; None when there will be no more."""
        while not isinstance(message := await learner.next(), TaskOffer):
            if message is None or isinstance(message, Farewell):
                return None
        await learner.stream.send(Accept(message.task_id))
        return message

    async def report(self, learner: Puppet, offer: TaskOffer) -> None:
        values, weight = self.random.standard_normal(self.size).astype(np.float32), self.random.uniform(1, 500)
        self.values[weight] = values
        await learner.push(learner.frames(offer, [values], num_training_examples=weight))


@pytest.mark.slow
@pytest.mark.parametrize(("commits", "size"), [(1_000, 257), (100, 70_000)], ids=["on the loop", "in a thread"])
async def test_after_many_commits_with_learners_coming_and_going_the_model_is_what_the_formula_says(
    commits: int, size: int
) -> None:
    signals = TerminationSignals(global_updates=commits)
    config = asynchronous(evaluate_every=0, max_failed_rounds=1000)
    async with nothing_left_behind(), Controller(ServerParams(), config) as controller:
        crowd = Crowd(controller, size, seed=11)
        session = DriverSession(controller, LEARNERS, signals, initial_weights=[np.zeros(size, np.float32)])
        async with asyncio.timeout(4 * PATIENCE_S), asyncio.TaskGroup() as group:
            running = group.create_task(session.run())
            for number in range(LEARNERS):
                group.create_task(crowd.live(f"site-{number}"))
        result = running.result()
        latest: dict[str, float] = {}  # the weight of the update of each learner that is in the model
        present: set[str] = set()
        departures = 0
        async for event in session.events():
            match event:
                case UpdateFolded(number, learner, weight):
                    if learner in present:  # else it left while its update was folded, and took it along
                        latest[learner] = weight
                    if number == commits:
                        break
                case LearnerJoined(learner):
                    present.add(learner)
                case LearnerLeft(learner, _, "it left"):
                    latest.pop(learner, None)
                    present.discard(learner)
                    departures += 1
    assert departures > commits / 50
    assert [record.number for record in result.rounds if record.is_published] == list(range(1, commits + 1))
    weights = list(latest.values())
    expected = np.average([crowd.values[weight].astype(np.float64) for weight in weights], axis=0, weights=weights)
    assert result.final_model is not None
    np.testing.assert_allclose(result.final_model[0], expected, rtol=1e-6, atol=1e-9)
    assert result.model_version == commits
    assert max(part.staleness for record in result.rounds for part in record.learners.values()) > 0


@pytest.mark.parametrize("over_grpc", [False, True])
@pytest.mark.parametrize("rule", ["FedAvg", "FedRec", FedAsync(), FedBuff(2, max_staleness=50), "FedAdam"])
async def test_every_rule_that_can_runs_without_rounds(rule: object, over_grpc: bool) -> None:
    learners = [Adds(1), Adds(2), Adds(3)]
    controller = Controller(ServerParams() if over_grpc else None, asynchronous(rule))
    async with nothing_left_behind():
        session = DriverSession(controller, learners, TerminationSignals(global_updates=12))
        result = await session.run()
    assert result.reason == "global_updates=12 reached"
    assert result.model_version == 12
    published = [record for record in result.rounds if record.is_published]
    assert [record.number for record in published] == list(range(1, 13))
    assert any(record.evaluation_metrics for record in published)
    assert result.final_model is not None
    assert result.final_model[0][0] > 0


async def test_a_slow_learner_delays_nobody() -> None:
    fast, slow = AddsOnLoop(1), AddsOnLoop(2)
    slow.may_train.clear()
    controller = Controller(controller_config=asynchronous(evaluate_every=0))
    session = DriverSession(controller, [fast, slow], TerminationSignals(global_updates=11))
    running = asyncio.create_task(session.run())
    counted = 0
    async for event in session.events():
        if isinstance(event, UpdateCounted):
            counted += 1
            if counted == 10:
                assert event.learner == "learner-0"
                slow.may_train.set()
                fast.may_train.clear()
            if counted == 11:
                assert event.learner == "learner-1"
    result = await running
    assert result.rounds[-1].learners["learner-1"].staleness == 10


async def test_stopping_and_cancelling_leave_nothing_behind() -> None:
    for over_grpc in (False, True):
        async with nothing_left_behind():
            controller = Controller(ServerParams() if over_grpc else None, asynchronous())
            session = DriverSession(controller, [Adds(1), Adds(2)], TerminationSignals(execution_cutoff_time_mins=9))
            running = asyncio.create_task(session.run())
            async for event in session.events():
                if isinstance(event, UpdateCounted) and event.number >= 3:
                    await session.stop("seen enough")
                    break
            assert (await running).reason == "seen enough"
            running = asyncio.create_task(session.run())
            async for event in session.events():
                if isinstance(event, UpdateCounted) and event.number >= 3:
                    running.cancel()
                    break
            with pytest.raises(asyncio.CancelledError):
                await running
