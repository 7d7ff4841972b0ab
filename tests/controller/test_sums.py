"""Sums of several learners' updates: whole or not at all, and on record for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from federations import nothing_left_behind, until

from metisfl_async import Controller, ControllerConfig, TerminationSignals
from metisfl_async.codec.frame import Header
from metisfl_async.controller.crowd import Crowd
from metisfl_async.controller.job import Job
from metisfl_async.core.federation.inputs import Failed, Stop, TimerFired
from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.ids import LearnerId, new_federation_id
from metisfl_async.core.messages import Outcome, StartRequest, TaskOffer
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.partial_sum import Contribution, PartialSum
from metisfl_async.core.strategies.aggregation.resemblance import portrait
from metisfl_async.strategies import FedAvg, Median

FIRST = Model.from_arrays([np.zeros(3, np.float32)])


@dataclass
class Ground:
    """A federation whose learners have got their tasks, and do nothing by themselves."""

    crowd: Crowd
    job: Job
    offers: dict[LearnerId, TaskOffer]

    def summed(self, learners: Sequence[str], values: Sequence[float], weights: Sequence[float]) -> PartialSum:
        total, shares = Sum(FIRST.manifest), []
        for learner, value, weight in zip(learners, values, weights, strict=True):
            update = Model.from_arrays([np.full(3, value, np.float32)])
            total.add(update, weight)
            offer = self.offers[LearnerId(learner)]
            shares.append(
                Contribution(LearnerId(learner), offer.task_id, weight, portrait(update, FIRST), {"loss": value})
            )
        return PartialSum(FIRST.manifest, offer.model.version, total.parts(), tuple(shares))

    def fail(self, learner: str) -> None:
        self.job.post(Failed(LearnerId(learner), self.offers[LearnerId(learner)].task_id, "Broken", "it broke"))

    def parts(self) -> dict[str, LearnerRecord]:
        return self.job.federation._round.record.learners

    def states(self) -> list[str]:
        return [part.train_state for _, part in sorted(self.parts().items())]

    async def first_model(self) -> float:
        """Wait for version 1; its first weight."""
        await until(lambda: self.job.published().model.version == 1)
        return float(self.job.published().model.arrays()[0][0])


@asynccontextmanager
async def ground(count: int, config: ControllerConfig | None = None) -> AsyncIterator[Ground]:
    learners = [LearnerId(name) for name in "abcdef"[:count]]
    config = replace(config or ControllerConfig(), evaluate_every=0)
    async with nothing_left_behind(), Controller(controller_config=config) as controller:
        crowd, link, federation_id = controller.crowd(), controller.connect(), new_federation_id()
        await crowd.join(learners)
        await link.set_initial_model(federation_id, FIRST)
        signals = TerminationSignals(federation_rounds=1)
        await link.start_training(StartRequest(signals, count, 1, None, federation_id, has_model=True))
        offers, _ = await crowd.heard()
        job = crowd.job(federation_id)
        assert job is not None
        yield Ground(crowd, job, dict(offers))
        await crowd.leave()


async def test_each_learner_of_a_sum_counts() -> None:
    async with ground(3, ControllerConfig(min_learners=3)) as of:
        replies = await of.job.sums.receive(of.summed("abc", [1.0, 2.0, 6.0], [1.0, 2.0, 1.0]), None)
        assert [reply.outcome for reply in replies if reply is not None] == [Outcome.FOLDED] * 3
        assert await of.first_model() == 2.75
        parts = of.parts()
        assert of.states() == ["counted"] * 3
        assert [(part.weight, part.train_metrics) for part in parts.values()] == [
            (1.0, {"loss": 1.0}),
            (2.0, {"loss": 2.0}),
            (1.0, {"loss": 6.0}),
        ]
        assert parts["c"].update_norm == pytest.approx(6.0 * 3**0.5)
        assert parts["c"].bytes_received == FIRST.manifest.size_bytes


async def test_twins_are_seen_though_they_come_in_two_sums() -> None:
    async with ground(3) as of:
        await of.job.sums.receive(of.summed("ab", [1.0, 2.0], [1.0, 1.0]), None)
        await of.job.sums.receive(of.summed("c", [2.0], [1.0]), None)
        assert {name: part.twin for name, part in of.parts().items()} == {"a": None, "b": None, "c": "b"}


async def test_a_sum_with_an_update_that_is_not_wanted_any_more_is_refused_whole() -> None:
    async with ground(3) as of:
        of.fail("b")
        first, second = await of.job.sums.receive(of.summed("ab", [1.0, 1.0], [1.0, 1.0]), None)
        assert first is not None
        assert second is not None
        assert [first.outcome, second.outcome] == [Outcome.REFUSED] * 2
        assert first.reason == "the sum holds an update that is not wanted any more"
        await of.job.sums.receive(of.summed("c", [5.0], [1.0]), None)
        assert await of.first_model() == 5.0
        assert of.states() == ["rejected", "failed", "counted"]


async def test_sums_are_folded_in_their_turn_and_count_though_the_deadline_passes_meanwhile() -> None:
    async with ground(3, ControllerConfig(round_timeout_secs=60.0)) as of:
        turn = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(of.job.sums.receive(of.summed("ab", [1.0, 3.0], [1.0, 1.0]), turn))
            await asyncio.sleep(0)
            of.job.post(TimerFired("phase"))
            assert of.states()[2] == "expired"
            assert not receiving.done()
            turn.set()
        assert await of.first_model() == 2.0
        assert of.states() == ["counted", "counted", "expired"]


async def test_a_sum_that_waits_for_its_turn_when_all_ends_is_folded_no_more() -> None:
    async with ground(2) as of:
        turn = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(of.job.sums.receive(of.summed("ab", [1.0, 3.0], [1.0, 1.0]), turn))
            await asyncio.sleep(0)
            of.job.post(Stop("enough"))
            turn.set()
        assert [reply.outcome for reply in receiving.result() if reply is not None] == [Outcome.CANCELLED] * 2
        assert of.job.published().model.version == 0


async def test_a_sum_that_does_not_fit_the_model_is_refused() -> None:
    async with ground(2) as of:
        wrong = replace(of.summed("a", [1.0], [1.0]), parts=[np.zeros(4)])
        (reply,) = await of.job.sums.receive(wrong, None)
        assert reply is not None
        assert (reply.outcome, reply.reason[:35]) == (Outcome.REFUSED, "sum: the sum has parts of shapes [(")


async def test_a_rule_that_is_no_mean_takes_none() -> None:
    async with ground(3, ControllerConfig(aggregation_rule=Median(), min_learners=3)) as of:
        assert not of.job.takes_sums
        (reply,) = await of.job.sums.receive(of.summed("a", [1.0], [1.0]), None)
        assert reply is not None
        assert reply.reason.startswith("aggregation_rule is 'Median'; allowed: a rule that is a weighted mean")


async def test_where_there_is_no_memory_for_a_sum_its_learners_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(FedAvg, "fold_sum", is_full)
    async with ground(2) as of:
        replies = await of.job.sums.receive(of.summed("ab", [1.0, 2.0], [1.0, 1.0]), None)
        assert {reply.reason for reply in replies if reply is not None} == {
            "there is no memory to take in a sum of 24 bytes"
        }


async def test_a_learner_whose_update_cannot_be_in_a_sum_is_on_record() -> None:
    async with ground(2) as of:
        of.job.sums.refuse(LearnerId("a"), of.offers[LearnerId("a")].task_id, "NotFinite", "it is infinite")
        (failure,) = of.parts()["a"].failures
        assert (of.states()[0], failure.type, failure.message) == ("rejected", "NotFinite", "it is infinite")


async def test_a_learner_of_a_crowd_is_not_given_up_however_long_it_is_silent_after_an_update() -> None:
    async with ground(2) as of:
        update, offer = Model.from_arrays([np.ones(3, np.float32)]), of.offers[LearnerId("a")]
        header = Header(
            "update", update.manifest, 0, offer.task_id, {}, {"num_training_examples": 1}, offer.model.federation_id
        )
        reply = await of.crowd.send(of.job, LearnerId("a"), header, update)
        assert reply.outcome is Outcome.FOLDED
        assert of.crowd._registry.silent(-1.0) == []  # not even in a second
