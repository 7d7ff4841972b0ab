"""Evaluations that say whose they are, over real connections: a relay that lies is refused, and the round goes on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import pytest
from federations import PATIENCE_S
from puppet import Puppet, puppet, weights

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.errors import Damaged
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.messages import Evaluated, Farewell, Settled
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.strategies.aggregation.contributors import Contributor

CONFIG = ControllerConfig(max_relayed_learners=4, max_weight=100, best_metric="auc")
ONE = Contributor(10.0, 1, {"auc": 1.0})


async def session(controller: Controller) -> FederationResult:
    signals = TerminationSignals(federation_rounds=1)
    async with asyncio.timeout(PATIENCE_S):
        return await DriverSession(controller, 2, signals, initial_weights=weights(0)).run()


async def trained(*learners: Puppet) -> None:
    for learner in learners:
        assert (await learner.push(learner.frames(await learner.task(), weights(1)))).is_taken


async def evaluate(learner: Puppet, metrics: Metrics, contributors: Mapping[str, Contributor] | None = None) -> None:
    task = await learner.task()
    assert task.kind is TaskKind.EVALUATE
    await learner.stream.send(Evaluated(task.task_id, metrics, contributors or {}))
    while not isinstance(await learner.next(), Settled):
        pass


async def drained(learner: Puppet) -> None:
    while await learner.next() is not None:
        pass


async def leave(*learners: Puppet) -> None:
    for learner in learners:
        while not isinstance(await learner.next(), Farewell):
            pass
        await learner.link.leave(learner.token)


async def evaluated(
    contributors: Mapping[str, Contributor], metrics: Metrics | None = None, config: ControllerConfig = CONFIG
) -> FederationResult:
    """Run a round in which a relay says this, and another learner a score of 0.5 on 10 examples."""
    async with Controller(ServerParams(), config) as controller:
        running = asyncio.create_task(session(controller))
        async with puppet(controller, "north") as north, puppet(controller, "single") as single:
            await trained(north, single)
            await evaluate(north, metrics or {}, contributors)
            await evaluate(single, {"auc": 0.5, "num_examples": 10.0})
            await leave(north, single)
        return await running


@pytest.mark.parametrize(
    ("contributors", "message"),
    [
        (
            {"a": ONE, "b": Contributor(10.0, 4, {"auc": 1.0})},
            "the evaluation is of 5 learners; allowed: at most max_relayed_learners=4",
        ),
        ({str(number): ONE for number in range(500)}, "the evaluation is of 500 learners; allowed: at most"),
        ({"a": Contributor(100.5, 1, {"auc": 1.0})}, "contributors['a'].weight is 100.5; allowed:"),
        ({"a": Contributor(math.nan, 1, {"auc": 1.0})}, "contributors['a'].weight is nan; allowed:"),
        ({"a": Contributor(1.0, 1, {"num_examples": 101.0})}, "contributors['a'].metrics['num_examples'] is 101.0"),
        ({"a": Contributor(1.0, 1, {"num_examples": math.inf})}, "contributors['a'].metrics['num_examples'] is inf"),
        ({"a": Contributor(1.0, 2**63, {"auc": 1.0})}, "contributors['a'].num_learners"),
        ({"a": Contributor(1.0)}, "contributors['a'].metrics is {}; allowed: at least one"),
        ({"": ONE}, "a name of contributors is ''; allowed: 1 to 1024 printable characters"),
        ({"a\x1b]0;mine": ONE}, r"a name of contributors is 'a\x1b]0;mine'"),
    ],
)
async def test_a_relay_that_says_what_cannot_be_has_failed_and_the_others_count(
    contributors: Mapping[str, Contributor], message: str
) -> None:
    result = await evaluated(contributors)
    (record,) = result.rounds
    (failure,) = record.learners["north"].failures
    assert (failure.task, failure.type) == ("evaluate", "UnexpectedMessage")
    assert message in failure.message
    assert failure.message.isprintable()
    assert record.evaluations == {"single": {"auc": 0.5, "num_examples": 10.0}}
    assert record.evaluation_metrics == {"auc": 0.5}


async def test_a_relay_does_not_say_what_the_mean_is() -> None:
    (record,) = (await evaluated({"a": ONE}, {"auc": 1e9})).rounds
    assert record.learners["north"].failures[0].message.startswith("an evaluation came with metrics and with contrib")


async def test_who_takes_no_relays_takes_no_evaluations_of_others() -> None:
    (record,) = (await evaluated({"a": ONE}, config=ControllerConfig())).rounds
    expected = "evaluations of others came; allowed only from relays, with max_relayed_learners > 0"
    assert record.learners["north"].failures[0].message == expected


async def test_metrics_that_are_no_numbers_are_said_and_are_no_score() -> None:
    below = {"a": Contributor(10.0, 1, {"auc": math.nan, "loss": math.inf}), "b": Contributor(10.0, 1, {"loss": 1.0})}
    result = await evaluated(below)
    (record,) = result.rounds
    assert math.isnan(record.evaluations["north/a"]["auc"])
    assert record.evaluation_metrics == pytest.approx({"auc": math.nan, "loss": math.inf}, nan_ok=True)
    assert result.best is None


async def test_more_names_than_a_message_may_have_end_the_stream_and_the_round_goes_on() -> None:
    async with Controller(ServerParams(), CONFIG) as controller:
        running = asyncio.create_task(session(controller))
        async with puppet(controller, "north") as north, puppet(controller, "single") as single:
            await trained(north, single)
            task = await north.task()
            await north.stream.send(Evaluated(task.task_id, {}, {str(number): ONE for number in range(501)}))
            with pytest.raises(Damaged, match="501 contributors; at most 500"):
                await drained(north)
            await north.link.leave(north.token)
            await evaluate(single, {"auc": 0.5})
            await leave(single)
        (record,) = (await running).rounds
    assert record.evaluations == {"single": {"auc": 0.5}}
    assert record.learners["north"].failures[0].task == "evaluate"


async def test_nobody_who_dials_has_the_name_of_a_hospital_behind_a_relay() -> None:
    async with Controller(ServerParams(), CONFIG) as controller:
        with pytest.raises(
            ConfigError, match="learner_id is 'north/site-1'; allowed: one without '/': where relays are"
        ):
            async with puppet(controller, "north/site-1"):
                raise AssertionError
    async with Controller(ServerParams(), ControllerConfig()) as controller, puppet(controller, "north/ward-1"):
        assert controller.snapshot().connected == ("north/ward-1",)  # there, it is a name as any other
