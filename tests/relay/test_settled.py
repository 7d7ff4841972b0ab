"""Below a relay, an update counts once the parent says that the sum does; else its learner hears why it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, until
from puppet import Puppet, dialled, weights
from relay.regions import offer, region, top

from metisfl_async import (
    ClientParams,
    ControllerConfig,
    DriverSession,
    Relay,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.federation.events import RoundFinished, UpdateCounted
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import TaskId
from metisfl_async.core.messages import ControllerMessage, Counted, Farewell, Outcome, Withdrawn
from metisfl_async.core.model import Model

ONE_ROUND = TerminationSignals(federation_rounds=1)
REFUSALS: dict[str, dict[str, Any]] = {
    "a sum of updates came; allowed only from relays, with max_relayed_learners > 0": {"max_relayed_learners": 0},
    "a contributor of the sum cannot be: contributors['site-0'].weight is 2.0": {"max_weight": 1.5},
    "the sum is weighted by scaling_factor 'NumTrainingExamples'": {"scaling_factor": "NumParticipants"},
}


async def trained(site: Puppet, value: float) -> TaskId:
    """Send an update with the next task, whose id comes back."""
    offer = await site.task()
    reply = await site.push(site.frames(offer, weights(value), num_training_examples=2.0))
    assert reply.outcome is Outcome.FOLDED
    return offer.task_id


async def fate(site: Puppet) -> ControllerMessage:
    """Wait for what is said of an update, or that it is over."""
    while not isinstance(message := await site.next(), Counted | Withdrawn | Farewell):
        assert message is not None
    return message


async def story(relay: Relay) -> tuple[list[RoundRecord], list[str]]:
    """Give the records of the latest federation below, once it is over, and who counted in it."""
    events = [event async for event in relay._region.below.events()]
    records = [event.record for event in events if isinstance(event, RoundFinished)]
    return records, [event.learner for event in events if isinstance(event, UpdateCounted)]


@pytest.mark.parametrize("reason", REFUSALS)
async def test_what_the_parent_refuses_does_not_count_below_and_the_reason_comes_down(reason: str) -> None:
    async with (
        top(1, **REFUSALS[reason]) as controller,
        region(controller.client_params, "north", {}, ControllerConfig()) as relay,
        dialled(relay.client_params, "site-0") as site,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run_learner(Adds(1), controller.client_params, learner_id="south"))
        session = DriverSession(controller, 2, ONE_ROUND, initial_weights=weights(0))
        running = group.create_task(session.run())
        task_id = await trained(site, 2)
        said, over = await fate(site), await fate(site)
        records, counted = await story(relay)
        await site.link.leave(site.token)
        (above,) = (await running).rounds
    assert isinstance(said, Withdrawn)
    assert said.task_id == task_id
    assert said.reason.startswith(f"above: {reason}")
    assert isinstance(over, Farewell)
    (below,) = records
    assert (below.is_published, below.participants, below.failure, counted) == (False, [], said.reason, [])
    assert below.learners["site-0"].train_state == above.learners["north"].train_state == "rejected"
    assert above.participants == ["south"]
    assert said.reason == f"above: {above.learners['north'].failures[0].message}"


async def test_the_reason_comes_down_through_relays_of_relays() -> None:
    async with (
        top(1, max_relayed_learners=0) as controller,
        region(controller.client_params, "middle", {}, ControllerConfig(max_relayed_learners=1)) as middle,
        region(middle.client_params, "inner", {}, ControllerConfig()) as inner,
        dialled(inner.client_params, "site-0") as site,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run_learner(Adds(1), controller.client_params, learner_id="south"))
        session = DriverSession(controller, 2, ONE_ROUND, initial_weights=weights(0))
        running = group.create_task(session.run())
        await trained(site, 2)
        said, over = await fate(site), await fate(site)
        await site.link.leave(site.token)
        await running
    assert isinstance(said, Withdrawn)
    assert said.reason.startswith("above: above: a sum of updates came; allowed only from relays")
    assert isinstance(over, Farewell)


async def test_a_sum_of_an_open_round_does_not_count_where_the_parent_is_stopped() -> None:
    slow = AddsOnLoop(1)
    slow.may_train.clear()
    async with (
        top(2) as controller,
        region(controller.client_params, "north", {}, ControllerConfig()) as relay,
        dialled(relay.client_params, "site-0") as site,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run_learner(slow, controller.client_params, learner_id="south"))
        session = DriverSession(controller, 2, ONE_ROUND, initial_weights=weights(0))
        running = group.create_task(session.run())
        task_id = await trained(site, 2)
        await until(lambda: controller.snapshot().folded == ("north",))
        await session.stop()
        said, over = await fate(site), await fate(site)
        _, counted = await story(relay)
        await site.link.leave(site.token)
        result = await running
    assert isinstance(said, Withdrawn)
    assert (said.task_id, said.reason) == (task_id, "above: the federation ended")
    assert isinstance(over, Farewell)
    assert counted == []
    assert result.rounds[0].learners["north"].train_state == "cancelled"


async def test_a_model_that_comes_before_the_word_that_the_sum_counts_is_taken_for_one_without_it() -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        Relay(None, ServerParams(), parent=ClientParams("localhost", 1)) as relay,
        dialled(relay.client_params, "site-0") as site,
        asyncio.TaskGroup() as group,
    ):
        below = relay._region.below
        training = group.create_task(below.train(Model.from_arrays(weights(0)), offer("earlier")))
        first = await trained(site, 1)
        await training
        training = group.create_task(below.train(Model.from_arrays(weights(5)), offer("later")))
        assert await fate(site) == Withdrawn(first, "the model above is another one")
        second = await trained(site, 6)
        await training
        below.settled(TaskId("earlier"), "it was late")  # an answer that was long on its way
        below.settled(TaskId("later"), None)
        group.create_task(below.end(Model.from_arrays(weights(7)), keep_running=False))
        assert await fate(site) == Counted((second,))
        assert isinstance(await fate(site), Farewell)
        await site.link.leave(site.token)
