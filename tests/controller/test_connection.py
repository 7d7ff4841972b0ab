"""A learner may say what it was asked for as fast as it can, and little else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from metisfl_async.controller.connection import ANSWERS, StreamConnection
from metisfl_async.core.allowance import Allowance
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, ModelRef, TaskId
from metisfl_async.core.messages import ControllerMessage, Heartbeat, LearnerMessage, TaskOffer
from metisfl_async.testing import run

OFFER = TaskOffer(TaskId("t"), TaskKind.TRAIN, 1, ModelRef(FederationId("f"), 0), {})


class Flood:
    """Brings so many heartbeats, as fast as they are read."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.sent: list[ControllerMessage] = []

    async def send(self, message: Sequence[ControllerMessage]) -> None:
        self.sent.extend(message)

    async def receive(self) -> LearnerMessage | None:
        self._left -= 1
        return None if self._left < 0 else Heartbeat()


async def read(number: int, unasked: Allowance, *offers: TaskOffer) -> float:
    """Read so many heartbeats; for how many virtual seconds."""
    loop = asyncio.get_running_loop()
    begun_at, came = loop.time(), list[LearnerMessage]()
    connection = StreamConnection(Flood(number), unasked)
    for offer in offers:
        connection.send(offer)
    await connection.run(came.append)
    assert came == [Heartbeat()] * number  # nothing is lost
    return loop.time() - begun_at


def test_what_a_learner_sends_unasked_is_read_at_a_bounded_rate() -> None:
    assert run(read(120, Allowance(10.0, 20.0))) == pytest.approx(10.0)


def test_what_a_learner_was_asked_for_is_read_at_once() -> None:
    assert run(read(4 * ANSWERS, Allowance(10.0, 1.0), *[OFFER] * 4)) == 0.0


async def twice(number: int, unasked: Allowance) -> float:
    return await read(number, unasked) + await read(number, unasked)


def test_a_connection_of_its_own_gives_a_learner_no_more() -> None:
    assert run(twice(60, Allowance(10.0, 20.0))) == pytest.approx(10.0)
