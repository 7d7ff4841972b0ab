"""Running coroutines together so that none outlives the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

__all__ = ["LATE_S", "Patience", "aside", "beside", "call", "end_all", "first_of", "is_being_cancelled", "to_the_end"]

P = ParamSpec("P")
T = TypeVar("T")

LITTLE_BYTES = 256 * 1024  #: to work on so much takes no longer than to wake a thread
LATE_S = 1.0  #: a timer that fires so late says that the loop stood still, and nothing about anybody else


async def first_of(*awaited: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
    """Run all until the first one ends, then cancel the others; raise the error of the one that failed."""
    tasks = [each if asyncio.isfuture(each) else asyncio.create_task(each, name=_name(each)) for each in awaited]
    done: set[asyncio.Future[Any]] = set()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_all(tasks)
    _raise_first(tasks, done)


async def beside(
    main: asyncio.Task[T],
    *others: Coroutine[Any, Any, Any],
    before_cancelling: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> T:
    """Run others beside a task.

    When `main` has ended, the others are waited for; when one of them fails, everything is cancelled and its error
    raised. When we are cancelled, `before_cancelling` may first let everything end in order.
    """
    tasks = [main, *(asyncio.create_task(coroutine, name=_name(coroutine)) for coroutine in others)]
    done: set[asyncio.Task[Any]] = set()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        if before_cancelling is not None:
            await to_the_end(before_cancelling())
        raise
    finally:
        await end_all(tasks)
    _raise_first(tasks, done)
    return main.result()


class Patience:
    """A time limit, as `asyncio.timeout` is one; but time in which the loop stood still does not count.

    After a pause of the process, what was awaited may lie in a socket; it is read before anybody is given up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._loop = seconds, asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def renew(self) -> None:
        """Begin to count anew."""
        if self._timer is not None:
            self._timer.cancel()
        due_at = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(due_at, self._is_due, due_at)

    def _is_due(self, due_at: float) -> None:
        if self._loop.time() - due_at > LATE_S:
            self.renew()
        else:
            self._timeout.reschedule(self._loop.time())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self.renew()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)


async def end_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait for it, however often we are cancelled meanwhile."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await _until_done(tasks)


async def to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what must not stop halfway: to its end, however often we are cancelled meanwhile."""
    task = asyncio.create_task(coroutine, name=_name(coroutine))
    await _until_done([task])
    return task.result()


async def _until_done(tasks: Sequence[asyncio.Future[Any]]) -> None:
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def aside(effort_bytes: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do so much arithmetic off the loop, in a thread that ends with it; little of it is done at once."""
    if effort_bytes < LITTLE_BYTES:
        return function(*args, **kwargs)
    with ThreadPoolExecutor(1, "metisfl-aside") as thread:

        async def done() -> T:
            return await asyncio.wrap_future(thread.submit(function, *args, **kwargs))

        return await to_the_end(done())


def call(function: Callable[..., T], *args: object) -> T:
    """Call what users wrote; what must not cross to an event loop, where it would end or hang it, becomes an error."""
    try:
        return function(*args)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def is_being_cancelled() -> bool:
    """Whether this task is asked to end, and not only something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return str(getattr(coroutine, "__qualname__", "coroutine"))


def _raise_first(tasks: Sequence[asyncio.Future[Any]], done: Container[asyncio.Future[Any]]) -> None:
    """Raise an error of those that were done first; one that came of ending the others only if there is no other."""
    for task in sorted(tasks, key=lambda task: task not in done):
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
