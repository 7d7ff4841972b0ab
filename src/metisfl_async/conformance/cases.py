"""What happens to learners, one thing after another, and what must come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from metisfl_async.conformance.ground import HEARTBEAT_S, Ground, Unfit
from metisfl_async.core.errors import MetisError, QuorumLost
from metisfl_async.core.federation.events import Event, RoundStarted
from metisfl_async.driver.result import FederationResult

__all__ = ["CASES", "Case"]

CUTS = (64, 256, 1024)  #: bytes after which connections break, beside those in the middle of the update
SHORT_S = 0.001  #: for a round whose tasks are withdrawn
LEAVES_S = 15.0


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that happens to a learner."""

    name: str
    must: str  #: what it must do
    run: Callable[[Ground], Awaitable[None]]


async def _takes_part(ground: Ground) -> None:
    await ground.open()
    result = await ground.federation(2)
    _check(result, 2)
    assert result.final_model is not None
    ground.weights = result.final_model
    if not all(record.evaluation_metrics for record in result.rounds):
        raise Unfit("Evaluated has no metrics")


async def _next_federation(ground: Ground) -> None:
    _check(await ground.federation(2, weights=ground.weights), 2)


async def _silence(ground: Ground) -> None:
    before = ground.link.bytes_up
    await asyncio.sleep(4 * HEARTBEAT_S)
    if ground.link.bytes_up == before:
        raise Unfit(f"it sent nothing for {4 * HEARTBEAT_S:g} s, and JoinReply said heartbeat_secs {HEARTBEAT_S:g}")


async def _broken_connection(ground: Ground) -> None:
    async def cut(event: Event) -> None:
        if isinstance(event, RoundStarted):
            ground.link.cut()

    _check(await ground.federation(3, on_event=cut), 3)


async def _broken_upload(ground: Ground) -> None:
    size_bytes = sum(array.nbytes for array in ground.weights)
    cuts = [*CUTS, *(size_bytes * part // 4 for part in (1, 2, 3))]

    async def cut(event: Event) -> None:
        if isinstance(event, RoundStarted):
            ground.link.cut_after(cuts[event.number - 1])

    _check(await ground.federation(len(cuts), on_event=cut), len(cuts))


async def _withdrawn(ground: Ground) -> None:
    await ground.open(round_timeout_s=SHORT_S)
    with suppress(QuorumLost):
        await ground.federation(1, weights=ground.weights)
    await ground.open()
    _check(await ground.federation(1), 1)


async def _restarted(ground: Ground) -> None:
    async def end(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.number == 2:
            await ground.close()

    await ground.open(name="restarted")
    with suppress(MetisError):
        await ground.federation(4, on_event=end)
    await ground.open(name="restarted", resume=True)
    _check(await ground.federation(4, resume=True), 4)


async def _another_controller(ground: Ground) -> None:
    await ground.open()
    _check(await ground.federation(1), 1)


async def _farewell(ground: Ground) -> None:
    await ground.federation(1, keep_running=False)
    try:
        async with asyncio.timeout(LEAVES_S):
            await ground.until_it_has_left()
    except TimeoutError:
        raise Unfit(f"it did not call LeaveFederation within {LEAVES_S:g} s of a Farewell with 'leave'") from None


def _check(result: FederationResult, rounds: int) -> None:
    """See that each round's one update counted, and nothing failed."""
    for record in result.rounds:
        for part in record.learners.values():
            for failure in part.failures:
                raise Unfit(f"round {record.number}: {failure.task} failed: {failure.type}: {failure.message}")
    counted = [record.number for record in result.rounds if record.is_published and record.participants]
    if counted != list(range(1, rounds + 1)):
        raise Unfit(f"its updates counted in the rounds {counted}; all of {rounds} were due")


CASES = (
    Case("takes part", "join, say Hello, give first weights, train, evaluate", _takes_part),
    Case("next federation", "stay after Farewell with 'stay', and take the next one's weights", _next_federation),
    Case("silence", "send heartbeats while it has nothing to do", _silence),
    Case("broken connection", "come back, and name what it holds; do a task once", _broken_connection),
    Case("broken upload", "send an update again that broke off", _broken_upload),
    Case("withdrawn", "drop a task that is withdrawn, and do the next", _withdrawn),
    Case("restarted controller", "come back to the same federation, and send again what it asks for", _restarted),
    Case("another controller", "join a controller that knows neither it nor its federation", _another_controller),
    Case("farewell", "leave after Farewell with 'leave'", _farewell),
)
