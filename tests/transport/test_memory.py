from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from federations import Adds, session_of

from metisfl_async import Controller, TransportError
from metisfl_async.core.access import Caller
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import FederationId, LearnerId, Token
from metisfl_async.core.messages import Evaluated, Heartbeat, Hello, JoinRequest, Welcome
from metisfl_async.errors import ProtocolError
from metisfl_async.transport.base import ControllerService
from metisfl_async.transport.memory import QUEUE_SIZE, MemoryLink


async def test_the_same_rules_hold_as_over_the_network() -> None:
    async with Controller() as controller:
        link = controller.connect()
        assert isinstance(link, MemoryLink)
        async with link.tasks() as stream:
            await stream.send(Evaluated("x", {}))  # type: ignore[arg-type]
            with pytest.raises(ProtocolError, match="must be Hello"):
                await stream.receive()
            with pytest.raises(TransportError):
                await stream.send(Heartbeat())
        reply = await link.join(JoinRequest(LearnerId("a"), Token("")))
        async with link.tasks() as stream:
            await stream.send(Hello(reply.token))
            assert await stream.receive() == [Welcome({})]
            with pytest.raises(ProtocolError, match="connected elsewhere"):
                await link.join(JoinRequest(LearnerId("a"), Token("")))


async def test_a_stream_holds_the_sender_back_when_nobody_reads() -> None:
    from metisfl_async.transport.memory import _Pipe

    pipe: _Pipe[int] = _Pipe()
    for number in range(QUEUE_SIZE):
        await pipe.put(number)
    held = asyncio.create_task(pipe.put(QUEUE_SIZE))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not held.done()
    assert [await pipe.get() for _ in range(QUEUE_SIZE + 1)] == list(range(QUEUE_SIZE + 1))
    await held
    pipe.end()
    assert await pipe.get() is None
    with pytest.raises(TransportError):
        await pipe.put(0)


async def test_others_get_their_turn_between_two_records_of_rounds() -> None:
    class Keeps:
        async def get_logs(self, _: Caller, __: FederationId) -> AsyncIterator[RoundRecord]:
            for number in range(1, 4):
                yield RoundRecord(number, 0)

    async def others() -> None:
        while True:
            happened.append("a turn")
            await asyncio.sleep(0)

    happened: list[str] = []
    working = asyncio.create_task(others())
    async for record in MemoryLink(cast(ControllerService, Keeps())).get_logs(FederationId("f")):
        happened += [f"record {record.number}"]
    working.cancel()
    first = happened.index("record 1")
    assert happened[first : first + 5] == ["record 1", "a turn", "record 2", "a turn", "record 3"]


async def test_a_closed_controller_cannot_be_joined() -> None:
    async with Controller() as controller:
        link = controller.connect()
    with pytest.raises(TransportError, match="it is closing"):
        await link.join(JoinRequest(LearnerId("a"), Token("")))


async def test_learners_share_one_copy_of_the_global_model() -> None:
    learners = [Adds(1), Adds(1)]
    await session_of(learners, rounds=1).run()
    first, second = (learner.taken_over[0][0] for learner in learners)
    assert first.flags.writeable  # what learners get is their own copy
    assert first is not second
