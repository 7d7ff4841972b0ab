from __future__ import annotations

import asyncio

import pytest

from metisfl_async.transport.concurrency import beside, first_of, to_the_end


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        ended.append("forever")


async def returns(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def fails() -> None:
    await asyncio.sleep(0)
    raise OSError("broken")


async def test_the_first_to_end_ends_the_others() -> None:
    ended: list[str] = []
    await first_of(returns(1), forever(ended))
    assert ended == ["forever"]
    with pytest.raises(OSError, match="broken"):
        await first_of(fails(), forever(ended))


async def test_the_first_may_be_a_future() -> None:
    ended: list[str] = []
    loop = asyncio.get_running_loop()
    given, failed, never = (loop.create_future() for _ in range(3))
    loop.call_soon(given.set_result, 1)
    await first_of(given, never, forever(ended))
    assert ended == ["forever"]
    assert never.cancelled()
    failed.set_exception(OSError("broken"))
    with pytest.raises(OSError, match="broken"):
        await first_of(failed, forever(ended))


async def test_beside_waits_for_the_others_and_gives_the_main_result() -> None:
    assert await beside(asyncio.create_task(returns(1)), returns(2)) == 1
    ended: list[str] = []
    with pytest.raises(OSError, match="broken"):
        await beside(asyncio.create_task(forever(ended)), fails())
    with pytest.raises(OSError, match="broken"):
        await beside(asyncio.create_task(fails()), forever(ended))
    assert ended == ["forever"] * 2


async def test_the_error_that_came_first_is_raised_and_not_what_came_of_it() -> None:
    async def hides() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("lost")

    with pytest.raises(OSError, match="broken"):
        await beside(asyncio.create_task(hides()), fails())
    with pytest.raises(OSError, match="broken"):
        await first_of(hides(), fails())


async def test_cancelled_it_ends_all_and_is_cancelled() -> None:
    ended: list[str] = []
    running = asyncio.create_task(first_of(forever(ended), forever(ended)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["forever"] * 2


async def test_cancelled_while_it_ends_the_others_it_still_ends_them() -> None:
    may_end, ended = asyncio.Event(), []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.append("slow")

    running = asyncio.create_task(first_of(returns(1), slow_to_end()))
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    assert not running.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["slow"]


async def test_what_must_not_stop_halfway_runs_to_its_end() -> None:
    assert await to_the_end(returns(1)) == 1
    with pytest.raises(OSError, match="broken"):
        await to_the_end(fails())
    may_end, ended = asyncio.Event(), []

    async def slow() -> None:
        await may_end.wait()
        ended.append("slow")

    running = asyncio.create_task(to_the_end(slow()))
    for _ in range(3):
        await asyncio.sleep(0)
        running.cancel()
    assert not ended
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["slow"]
