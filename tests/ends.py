"""Programs that end while a federation over gRPC is under way, one after another in one process.

``python ends.py <how> <loop> <times>``
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import uvloop
from federations import Adds

from metisfl_async import Controller, DriverSession, ServerParams, TerminationSignals

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


async def _under_way(controller: Controller) -> asyncio.Task[Any]:
    """Start a federation that has no end soon, and wait until it has had some rounds."""
    session = DriverSession(controller, [Adds(1), Adds(2)], TerminationSignals(federation_rounds=10**6))
    running = asyncio.create_task(session.run())
    seen = 0
    async for _ in session.events():
        seen += 1
        if seen == 20:
            break
    return running


async def main_returns(_: int) -> None:
    await _under_way(Controller(ServerParams()))


async def main_raises(_: int) -> None:
    await _under_way(Controller(ServerParams()))
    raise ZeroDivisionError


async def one_interrupt(_: int) -> None:
    running = await _under_way(Controller(ServerParams()))
    os.kill(os.getpid(), signal.SIGINT)
    await running


async def two_interrupts(number: int) -> None:
    """Interrupt, and again after so many steps of what the first has begun."""
    running = await _under_way(Controller(ServerParams()))
    os.kill(os.getpid(), signal.SIGINT)
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    running.cancel()
    for _ in range(number):
        await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGINT)
    await running


async def never_closed(_: int) -> None:
    controller = Controller(ServerParams())
    await controller.__aenter__()
    await _under_way(controller)


async def dropped_at_the_end(_: int) -> None:
    await Controller(ServerParams()).__aenter__()


async def dropped_before_the_end(_: int) -> None:
    """Drop an open controller, and go on until it cannot be dialled any more."""
    controller = Controller(ServerParams())
    await controller.__aenter__()
    host, port = controller.client_params.hostname, controller.client_params.port
    del controller
    gc.collect()
    with suppress(OSError):
        while True:
            writer = (await asyncio.open_connection(host, port))[1]
            writer.transport.abort()
            await asyncio.sleep(0.005)


def run(main: Coroutine[Any, Any, None], new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with suppress(KeyboardInterrupt, ZeroDivisionError), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


def close_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Close a loop without a word to its tasks."""
    loop, controller = new_loop(), Controller(ServerParams())
    loop.run_until_complete(controller.__aenter__())
    loop.run_until_complete(_under_way(controller))
    loop.close()


MAINS = {
    main.__name__: main
    for main in (
        main_returns,
        main_raises,
        one_interrupt,
        two_interrupts,
        never_closed,
        dropped_at_the_end,
        dropped_before_the_end,
    )
}

if __name__ == "__main__":
    how, name, times = sys.argv[1:]
    for number in range(int(times)):
        if how == "loop_is_closed":
            close_loop(LOOPS[name])
        else:
            run(MAINS[how](number), LOOPS[name])
    gc.collect()
