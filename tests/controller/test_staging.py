from __future__ import annotations

import asyncio

import pytest

from metisfl_async.controller import staging as staging_module
from metisfl_async.controller.staging import Room, Staging


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_room_is_handed_out_in_order_and_bounded() -> None:
    staging = Staging(100)
    first = await staging.reserve(60)
    second, third = (asyncio.create_task(staging.reserve(size)) for size in (50, 10))
    await settle()
    assert not second.done()
    assert not third.done()  # it would fit, but the one before it would starve
    assert staging.used_bytes == 60
    first.release()
    await settle()
    assert second.done()
    assert third.done()
    assert staging.used_bytes == 60


async def test_one_update_is_always_let_in() -> None:
    staging = Staging(1)
    room = await staging.reserve(1000)
    assert len(room.buffer) == 1000
    waiting = asyncio.create_task(staging.reserve(1))
    await settle()
    assert not waiting.done()
    room.release()
    assert len((await waiting).buffer) == 1


async def test_buffers_are_used_again_while_the_model_is_the_same() -> None:
    staging = Staging(100)
    room = await staging.reserve(50)
    address = room.buffer.ctypes.data
    room.release()
    assert (await staging.reserve(50)).buffer.ctypes.data == address
    (await staging.reserve(20)).release()
    assert len((await staging.reserve(30)).buffer) == 30


@pytest.mark.parametrize("is_its_turn", [False, True])
async def test_who_stops_waiting_blocks_nobody(is_its_turn: bool) -> None:
    staging = Staging(100)
    room = await staging.reserve(100)
    leaves, stays = (asyncio.create_task(staging.reserve(100)) for _ in range(2))
    await settle()
    if is_its_turn:
        room.release()  # its turn has come, but it has not run yet
    leaves.cancel()
    await settle()
    if not is_its_turn:
        room.release()
    got: Room = await stays
    got.release()
    assert staging.used_bytes == 0


async def test_who_stop_waiting_together_stop_as_cancelled() -> None:
    staging = Staging(100)
    room = await staging.reserve(100)
    waiting = [asyncio.create_task(staging.reserve(100)) for _ in range(3)]
    await settle()
    for task in waiting:
        task.cancel()
    room.release()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    assert staging.used_bytes == 0


async def test_room_for_which_there_is_no_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(size_bytes: int) -> None:
        raise MemoryError

    monkeypatch.setattr(staging_module, "allocate", no_memory)
    staging = Staging(100)
    with pytest.raises(MemoryError):
        await staging.reserve(50)
    assert staging.used_bytes == 0
