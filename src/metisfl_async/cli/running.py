"""Runs a coroutine as the whole of a process, and ends it when it is told to."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

try:
    import resource
except ModuleNotFoundError:  # Windows, where there is no such limit
    resource = None  # type: ignore[assignment]

__all__ = ["allow_many_files", "exit_on_signals", "run"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """Exit with the code that shells expect (130, 143); inside `run`, only after everything has ended in order."""
    for number in SIGNALS:
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one, where that is allowed: a learner takes one or two."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # on macOS, where the hard limit may be beyond what the kernel allows
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to its end, on uvloop where there is one.

    The first SIGINT or SIGTERM cancels it, and the process exits once it has ended. A learner's training in a thread
    cannot be stopped, so that may take `stop_timeout_secs`; a second signal does not wait for it.
    """
    received: list[int] = []

    def on_signal(number: int, task: asyncio.Task[Any]) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        logger.info("ending; once more, and nothing is waited for")
        task.cancel()

    async def until_signalled() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in SIGNALS:
            with suppress(NotImplementedError):  # on Windows, where Ctrl-C cancels it as well
                loop.add_signal_handler(number, on_signal, number, task)
        return await main

    gc.collect()
    gc.freeze()  # what was imported stays: a full pass of the collector need not look at it while the loop waits
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(until_signalled())
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit(128 + (received[0] if received else signal.SIGINT))
    finally:
        exit_on_signals()  # the loop has put the defaults back


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
