"""What blocks the event loop is named, and a stopped process is not taken for it."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from federations import PATIENCE_S, nothing_left_behind, until

from metisfl_async.controller import watchdog as module
from metisfl_async.controller.watchdog import BLOCKED_S, Gap, Watchdog
from metisfl_async.core.repeats import Repeats

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("stopped.py")
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def run(new_loop: NewLoop, main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("metisfl_async")]


def blocks_until_told(caplog: pytest.LogCaptureFixture) -> None:
    told = len(lines(caplog))
    given_up = time.monotonic() + PATIENCE_S
    while len(lines(caplog)) == told and time.monotonic() < given_up:
        time.sleep(0.01)


@LOOPS
def test_a_callback_that_blocks_the_loop_is_named_while_it_does_and_when_it_is_over(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with nothing_left_behind(), Watchdog() as watchdog:
            assert watchdog.last_gap is None
            asyncio.get_running_loop().call_soon(blocks_until_told, caplog)
            await until(lambda: len(lines(caplog)) == 2)
            assert watchdog.last_gap is not None

    run(new_loop, main())
    begun, ended = lines(caplog)
    assert "the event loop is blocked" in begun
    assert "it was blocked by" in ended
    for line in (begun, ended):
        assert f"{__file__}:" in line
        assert "in blocks_until_told" in line or "in lines" in line


@LOOPS
def test_a_coroutine_that_blocks_the_loop_is_named_and_the_loop_can_ask_at_once_how_long_it_was(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    gaps: list[Gap | None] = []

    async def blocks() -> None:
        time.sleep(BLOCKED_S + 0.5)  # noqa: ASYNC251 - it is what is looked for

    async def main() -> None:
        async with nothing_left_behind():
            async with Watchdog() as watchdog:
                await asyncio.sleep(0)
                await asyncio.create_task(blocks())
                gaps.append(watchdog.last_gap)
                ended_at = asyncio.get_running_loop().time()
            assert gaps[0] is not None
            assert gaps[0].length_s > BLOCKED_S
            assert gaps[0].ended_at <= ended_at

    run(new_loop, main())
    assert len(lines(caplog)) in (1, 2)  # one for both, if the thread was late
    assert all("<locals>.blocks" in line for line in lines(caplog))


@LOOPS
def test_what_is_not_written_in_python_is_said_to_be_so(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Watchdog() as watchdog:
            await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_soon(time.sleep, BLOCKED_S + 0.5)
            await until(lambda: watchdog.last_gap is not None)

    run(new_loop, main())
    assert lines(caplog)
    assert all(module.NO_PYTHON in line for line in lines(caplog))


async def test_a_loop_that_runs_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    async with nothing_left_behind(), Watchdog() as watchdog:
        await asyncio.sleep(BLOCKED_S + 1)
        assert watchdog.last_gap is None
    assert lines(caplog) == []


async def test_the_same_place_is_named_the_1st_2nd_and_4th_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted = threading.Event()

    class Told(Repeats):
        def count(self, what: Hashable) -> int | None:
            times = super().count(what)
            if __file__ in str(what):
                counted.set()
            return times

    monkeypatch.setattr(module, "Repeats", Told)
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    monkeypatch.setattr(module, "BLOCKED_S", 0.1)
    async with Watchdog() as watchdog:
        for _ in range(5):
            await asyncio.sleep(0.1)
            before = watchdog.last_gap
            counted.clear()
            assert counted.wait(PATIENCE_S)  # blocks the loop until the thread has seen it
            assert watchdog.last_gap is not before
    blocked = [line for line in lines(caplog) if __file__ in line and "is blocked" in line]
    assert [line.partition(" (")[2] for line in blocked] == ["", "2 times so far)", "4 times so far)"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals there")
async def test_in_a_process_that_was_stopped_nobody_is_blamed() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(2 * BLOCKED_S + 1)
    process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate()
    assert float(output) > BLOCKED_S
    assert "the process was stopped" in errors.decode()
    assert "blocked" not in errors.decode()
