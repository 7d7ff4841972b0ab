from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from metisfl_async.controller import turns as turns_module
from metisfl_async.controller.turns import FAST_BYTES, MOST_BYTES, Turns

LARGE = 10 * FAST_BYTES


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Mover:
    """Moves a model for as long as it is let."""

    def __init__(self, turns: Turns, size_bytes: int = LARGE) -> None:
        self.turn = turns.turn(size_bytes)
        self.is_moving, self._is_told_to_end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._move())

    async def _move(self) -> None:
        async with self.turn:
            self.is_moving.set()
            await self._is_told_to_end.wait()

    async def end(self) -> None:
        self._is_told_to_end.set()
        await self.task


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody becomes slow by itself."""
    monkeypatch.setattr(turns_module, "PAUSE_S", 1e6)


@pytest.mark.usefixtures("patient")
async def test_large_models_that_move_fast_go_two_at_a_time_in_order() -> None:
    turns = Turns()
    movers = [Mover(turns) for _ in range(4)]
    await settle()
    assert [mover.is_moving.is_set() for mover in movers] == [True, True, False, False]
    await movers[0].end()
    await settle()
    assert [mover.is_moving.is_set() for mover in movers] == [True, True, True, False]
    for mover in movers[1:]:
        await mover.end()
    assert turns.fast.taken == turns.all.taken == 0


@pytest.mark.usefixtures("patient")
async def test_small_models_go_many_at_a_time() -> None:
    turns = Turns()
    movers = [Mover(turns, MOST_BYTES // 8) for _ in range(17)]
    await settle()
    assert sum(mover.is_moving.is_set() for mover in movers) == 16
    for mover in movers:
        await mover.end()


async def test_who_pauses_lets_the_next_ones_go_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PAUSE_S", 0.001)
    turns = Turns()
    movers = [Mover(turns) for _ in range(9)]
    for mover in movers:  # nothing of any of them moves: all come to be on their way at once
        await mover.is_moving.wait()
    for mover in movers:
        await mover.end()
    assert turns.fast.taken == turns.all.taken == 0


@pytest.mark.usefixtures("patient")
async def test_who_keeps_moving_keeps_its_place() -> None:
    turns = Turns()
    mover, other, late = (Mover(turns) for _ in range(3))
    await settle()
    for _ in range(3):  # as after three pauses, in which the first moved and the other did not
        mover.turn.moved()
        mover.turn._watch()
    other.turn._watch()
    await settle()
    assert late.is_moving.is_set()  # in the other's place
    assert turns.fast.taken == 2 * MOST_BYTES
    for each in (mover, other, late):
        await each.end()
    assert turns.fast.taken == 0


@pytest.mark.usefixtures("patient")
async def test_only_so_many_move_at_one_time_however_slow() -> None:
    turns = Turns(most=3)
    movers = [Mover(turns) for _ in range(4)]
    for mover in movers[:3]:
        await settle()
        mover.turn._has_moved = False
        if mover.turn._timer is not None:
            mover.turn._watch()
    await settle()
    assert [mover.is_moving.is_set() for mover in movers] == [True, True, True, False]
    for mover in movers:
        await mover.end()
    assert turns.all.taken == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("most", [1, None])
async def test_who_is_cancelled_while_waiting_takes_nothing(most: int | None) -> None:
    turns = Turns(most)
    async with AsyncExitStack() as stack:
        for _ in range(most or 2):
            await stack.enter_async_context(turns.turn(LARGE))
        waiting = Mover(turns)
        await settle()
        waiting.task.cancel()
        await asyncio.wait([waiting.task])
        assert waiting.task.cancelled()
    assert turns.fast.taken == turns.all.taken == 0
