"""Blocks until a coroutine has ended, whether or not an event loop runs in this thread."""

from __future__ import annotations

import _thread
import asyncio
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

__all__ = ["a_loop_runs", "run_here", "run_in_thread"]

T = TypeVar("T")
NOTICED_S = 0.2  #: after so long an interrupt is noticed that came just before a thread began to wait
PAUSE_S = 0.001  #: between two looks whether a thread that has done its work is gone


def a_loop_runs() -> bool:
    """Say whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_here(main: Coroutine[Any, Any, T]) -> T:
    """Run on a fresh event loop in this thread, where none runs."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def run_in_thread(main: Coroutine[Any, Any, T]) -> T:
    """Run on a fresh event loop in a thread of its own.

    An interrupt of this thread cancels it there, and is raised when the thread has ended; further ones cancel again.
    """
    run = _RunInThread(main)
    try:
        try:
            run.start_and_wait()
        finally:
            run.end()
    finally:
        run.end()  # if a second interrupt came between two instructions of the first call
    return run.result()


class _RunInThread(Generic[T]):
    """A coroutine in a thread, waited for by a thread that may be interrupted.

    An interrupt may be raised at any instruction of the main thread, also within `Thread.start`, `Thread.join` and
    `Event.wait`: then the first does not say whether the thread runs, the next `join` may return although it runs
    (Python 3.11), and an `Event` may stay locked for ever. So all of that is done by a keeper, a thread that no
    interrupt reaches; the main thread uses nothing but bare locks, of which each call happens whole or not at all.
    """

    def __init__(self, main: Coroutine[Any, Any, T]) -> None:
        self._main = main
        self._thread = threading.Thread(target=self._run, name="metisfl-session")
        self._has_run, self._over = threading.Lock(), threading.Lock()
        self._has_run.acquire()
        self._over.acquire()
        self._has_begun = self._is_over = self._is_cancelled = False
        self._task: asyncio.Task[T] | None = None
        self._outcome: list[T] = []
        self._error: BaseException | None = None

    # --- in the main thread ----------------------------------------------------------------------------------------

    def start_and_wait(self) -> None:
        _thread.start_new_thread(self._keep, ())
        while not self._is_over:
            self._over.acquire(timeout=NOTICED_S)

    def end(self) -> None:
        """Cancel it, unless it is over, and wait until its thread has ended, whatever interrupts that."""
        while not self._is_over:
            try:
                self._cancel()
                if not self._has_begun:  # if the keeper ever does, it sees that it need not
                    self._main.close()
                    return
                while not self._is_over:
                    self._over.acquire(timeout=NOTICED_S)
            except BaseException:  # noqa: BLE001 - the first interrupt is being raised already
                continue

    def _cancel(self) -> None:
        self._is_cancelled = True  # before looking how far the others are; they say how far they are before they look
        if self._task is not None:
            with suppress(RuntimeError):  # it has just ended, and closed its loop
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._outcome[0]

    # --- in the keeper's thread ------------------------------------------------------------------------------------

    def _keep(self) -> None:
        self._has_begun = True
        try:
            if self._is_cancelled:
                self._main.close()
                return
            self._thread.start()
            self._has_run.acquire()
            while self._thread.is_alive():  # `join` would leave an object for this thread in threading.enumerate()
                time.sleep(PAUSE_S)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread instead
            self._main.close()
            self._error = error
        finally:
            self._is_over = True
            self._over.release()

    # --- in the session's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._outcome.append(run_here(self._cancellable()))
        except BaseException as error:  # noqa: BLE001 - raised in the main thread instead
            self._error = error
        finally:
            self._has_run.release()

    async def _cancellable(self) -> T:
        self._task = task = asyncio.create_task(self._main)
        if self._is_cancelled:
            task.cancel()
        return await task


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
