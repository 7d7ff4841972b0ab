"""Threads for learners' methods, which may run for ever: one that is not waited for any longer is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeAlias, TypeVar

__all__ = ["DaemonThreads"]

P = ParamSpec("P")
T = TypeVar("T")
_Work: TypeAlias = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(Executor):
    """What `ThreadPoolExecutor` is, but neither `shutdown` nor the interpreter's end waits for a thread that is left.

    Parameters
    ----------
    most : int
        So many threads at most, beside those that are left; each of the first calls starts one.
    name : str
        The first part of the threads' names.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._at: dict[Future[Any], threading.Thread] = {}  # which thread does what
        self._is_shut = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: Future[T] = Future()
            self._waiting.put((future, partial(fn, *args, **kwargs)))
            if len(self._threads) < self._most:
                self._start()
            return future

    def leave(self, work: Future[Any]) -> None:
        """Let the thread that does this work end with it, whenever that is; another takes its place."""
        with self._lock:
            thread = self._at.get(work)
            if thread in self._threads:
                self._threads.remove(thread)
                if not self._is_shut and not self._waiting.empty():
                    self._start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._is_shut = True
            with suppress(Empty):
                while cancel_futures:
                    if (work := self._waiting.get_nowait()) is not None:
                        work[0].cancel()
            threads = list(self._threads)
            for _ in threads:
                self._waiting.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._threads)}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _serve(self) -> None:
        me = threading.current_thread()
        while me in self._threads and (work := self._waiting.get()) is not None:
            self._do(me, *work)
            del work  # and what it holds, while the next is waited for

    def _do(self, me: threading.Thread, future: Future[Any], call: Callable[[], Any]) -> None:
        with self._lock:
            if not future.set_running_or_notify_cancel():
                return
            self._at[future] = me
        try:
            outcome, error = call(), None
        except BaseException as raised:  # noqa: BLE001 - raised where the future is waited for
            outcome, error = None, raised
        with self._lock:
            del self._at[future]
        if error is None:
            future.set_result(outcome)
        else:
            future.set_exception(error)
        del future, error  # an error's traceback holds this frame
