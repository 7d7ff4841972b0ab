"""What a driver asks goes through relays: each learner below answers under its own name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from federations import Adds, nothing_left_behind, until
from proxy import proxy_to
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
from metisfl_async.learner import answering

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
        self.was_asked = False

    @askable
    async def patients(self, params: dict[str, Any]) -> int:
        self.was_asked = True
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
        (answer,) = (await DriverSession(controller, 1, ONE).ask("patients", timeout_secs=2.0)).values()
        assert isinstance(answer, Failure)
        assert (answer.type, answer.message[:30]) == ("QuorumLost", "0 of 1 learners are connected ")
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


async def test_a_relay_passes_on_several_questions_beside_one_another() -> None:
    slow = Thinks(2)
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "north", {"site-1": Counts(1), "site-2": slow}) as north,
    ):
        await joined(north, count=2)
        session = DriverSession(controller, 1, ONE)
        asking = asyncio.create_task(session.ask("patients", {"of": "age"}))
        await until(lambda: slow.was_asked)
        second = await DriverSession(controller, 1, ONE).ask("patients", {"of": "sex"}, timeout_secs=2.0)
        assert second["north/site-1"] == {"of": "sex", "count": 100}
        slow.may_answer.set()
        assert (await asking)["north/site-2"] == 0
        await session.run()


@pytest.mark.parametrize("most_kept", [4, 0])
async def test_an_answer_that_was_lost_with_the_connection_is_said_again_or_is_a_failure(
    most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "MOST_KEPT_BYTES", most_kept)
    lost = Failure("patients", "TooLarge", answering.LOST)
    first, second = Thinks(1), Thinks(2)
    async with (
        top(1) as controller,
        proxy_to(controller) as proxy,
        region(proxy.params, "north", {"site-1": first, "site-2": second}) as north,
    ):
        await joined(north, count=2)
        session = DriverSession(controller, 1, ONE)
        asking = asyncio.create_task(session.ask("patients"))
        await until(lambda: first.was_asked and second.was_asked)
        (asked,) = north._region.below._open.service.questions._open.values()
        (asked_above,) = controller._open.service.questions._open.values()
        proxy.forget()
        first.may_answer.set()
        await until(lambda: asked.awaited == {"site-2"} and asked.answers.empty())
        assert not asked_above.below
        proxy.cut()
        await until(lambda: asked_above.below == {"north": {"site-1"}})
        second.may_answer.set()
        assert await asking == {"north/site-1": 0 if most_kept else lost, "north/site-2": 0}
        await session.run()
