"""The loop whose clock jumps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from metisfl_async.core.errors import ConnectionLost
from metisfl_async.testing import Deadlock, VirtualLoop, run
from metisfl_async.transport.retry import insisting


def test_a_day_takes_no_time() -> None:
    async def main() -> list[tuple[str, float]]:
        woken = []

        async def sleep(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, asyncio.get_running_loop().time()))

        await asyncio.gather(sleep("day", 86_400.0), sleep("hour", 3600.0))
        return woken

    assert run(main()) == [("hour", 3600.0), ("day", 86_400.0)]


def test_what_goes_to_a_thread_is_done_before_time_passes() -> None:
    async def main() -> tuple[float, float]:
        async with asyncio.timeout(1e-9):
            total = await asyncio.to_thread(sum, (1.0, 2.0))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return total, asyncio.get_running_loop().time()

    assert run(main()) == (3.0, 0.0)


def test_a_job_that_is_cancelled_before_its_turn_is_not_done() -> None:
    done: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, done.append, 1).cancel()
        await asyncio.sleep(1)

    run(main())
    assert done == []


def test_while_it_is_held_the_clock_waits_for_another_thread() -> None:
    async def main() -> tuple[bool, float]:
        loop, may_end = asyncio.get_running_loop(), threading.Event()
        assert isinstance(loop, VirtualLoop)
        with ThreadPoolExecutor(1) as executor:
            working = asyncio.wrap_future(executor.submit(may_end.wait))
            hour = loop.call_later(3600.0, print)
            loop.call_soon(may_end.set)
            with loop.held():
                is_done = await working
            hour.cancel()
        return is_done, loop.time()

    assert run(main()) == (True, 0.0)


def test_a_deadlock_says_who_waits() -> None:
    async def main() -> None:
        await asyncio.create_task(asyncio.Event().wait(), name="for-ever")

    with pytest.raises(Deadlock, match=r"(?s)nothing is due:.*for-ever"):
        run(main())


def test_sockets_are_refused() -> None:
    async def main() -> None:
        for add in (asyncio.get_running_loop().add_reader, asyncio.get_running_loop().add_writer):
            with pytest.raises(RuntimeError, match="no sockets, so no gRPC"):
                add(0, print)

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_draws_the_order_of_tasks_and_repeats_it(seed: int) -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            await asyncio.sleep(0)
            order.append(number)

        await asyncio.gather(*(note(number) for number in range(20)))
        return order

    drawn = run(main(), seed)
    assert drawn == run(main(), seed)
    assert drawn != sorted(drawn)
    assert run(main()) == sorted(drawn)


def test_a_generator_that_is_left_open_is_noted() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main() -> list[str]:
        async for _ in numbers():
            break
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.unclosed

    assert [name.rpartition(".")[2] for name in run(main())] == ["numbers"]


def test_insisting_gives_up_by_the_clock_of_the_loop() -> None:
    attempts = 0

    async def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionLost("there", "nobody")

    async def main() -> float:
        with pytest.raises(ConnectionLost):
            await insisting("a test", "there", 3600.0, fail)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(3600.0)
    assert 360 < attempts < 2000  # pauses are 10 s at most
