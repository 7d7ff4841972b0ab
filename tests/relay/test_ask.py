"""What a driver asks goes through relays: each learner below answers under its own name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from federations import Adds, nothing_left_behind, until
from relay.regions import region, top

from metisfl_async import (
    ControllerConfig,
    DriverSession,
    Failure,
    QuorumLost,
    Relay,
    ServerParams,
    TerminationSignals,
    askable,
)

ONE = TerminationSignals(federation_rounds=1)


class Counts(Adds):
    """Says how many patients it has."""

    @askable
    def patients(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.number == 3:
            raise ValueError("the table is gone")
        return {"of": params["of"], "count": 100 * self.number}


class Thinks(Adds):
    """Answers once it may."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.may_answer = asyncio.Event()

    @askable
    async def patients(self, params: dict[str, Any]) -> int:
        await self.may_answer.wait()
        return 0


async def joined(*relays: Relay, count: int) -> None:
    """Wait until so many learners are connected to these."""
    await until(lambda: sum(len(relay._region.below.snapshot().connected) for relay in relays) == count)


async def test_all_learners_of_a_tree_are_asked() -> None:
    own = ControllerConfig(min_learners=2, max_relayed_learners=3)
    async with (
        top(2) as controller,
        region(controller.client_params, "north", {"site-1": Counts(1)}) as north,
        region(controller.client_params, "south", {"site-2": Counts(2)}, own) as south,
        region(south.client_params, "inner", {"site-3": Counts(3), "site-4": Counts(4)}) as inner,
    ):
        await joined(north, south, inner, count=5)
        session = DriverSession(controller, 2, ONE)
        answers = await session.ask("patients", {"of": "age"})
        assert answers == {
            "north/site-1": {"of": "age", "count": 100},
            "south/inner/site-3": Failure("patients", "ValueError", "the table is gone"),
            "south/inner/site-4": {"of": "age", "count": 400},
            "south/site-2": {"of": "age", "count": 200},
        }
        for answer in (await session.ask("train")).values():
            assert isinstance(answer, Failure)
            assert "methods that Counts marks with @askable" in answer.message
        await session.run()


async def test_whoever_is_late_below_is_named() -> None:
    slow = Thinks(2)
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "north", {"site-1": Counts(1), "site-2": slow}) as north,
    ):
        await joined(north, count=2)
        session = DriverSession(controller, 1, ONE)
        answers = await session.ask("patients", {"of": "age"}, timeout_secs=2.0)
        late = answers["north/site-2"]
        assert isinstance(late, Failure)
        assert (sorted(answers), late.type) == (["north/site-1", "north/site-2"], "PeerTimeout")
        slow.may_answer.set()
        await session.run()


async def test_a_relay_with_nobody_below_says_so() -> None:
    async with (
        top(1) as controller,
        Relay(None, ServerParams(), parent=controller.client_params, relay_id="a") as relay,
    ):
        running = asyncio.create_task(relay.run())
        assert await DriverSession(controller, 1, ONE).ask("patients") == {
            "a": Failure("patients", "UnexpectedMessage", "nobody is there below the relay")
        }
        running.cancel()


async def test_a_parent_that_takes_no_relays_takes_no_answers_of_theirs() -> None:
    async with (
        top(1, max_relayed_learners=0, max_failed_rounds=1) as controller,
        region(controller.client_params, "north", {"site-1": Counts(1)}) as north,
    ):
        await joined(north, count=1)
        session = DriverSession(controller, 1, ONE)
        why = "it passes on answers of 1 learners; allowed: at most max_relayed_learners=0 of a relay"
        assert await session.ask("patients", {"of": "age"}) == {"north": Failure("patients", "UnexpectedMessage", why)}
        with pytest.raises(QuorumLost):
            await session.run()
