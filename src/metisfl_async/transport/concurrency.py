"""Running coroutines together so that none outlives the others."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

__all__ = ["beside", "end_all", "first_of", "is_being_cancelled", "to_the_end"]

T = TypeVar("T")


async def first_of(*awaited: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
    """Run all until the first one ends, then cancel the others; raise the error of the one that failed."""
    tasks = [each if asyncio.isfuture(each) else asyncio.create_task(each, name=_name(each)) for each in awaited]
    done: set[asyncio.Future[Any]] = set()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_all(tasks)
    _raise_first(tasks, done)


async def beside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, Any]) -> T:
    """Run `main` with others beside it.

    When `main` has ended, the others are waited for; when one of them fails, everything is cancelled and its error
    raised.
    """
    tasks = [asyncio.create_task(coroutine, name=_name(coroutine)) for coroutine in (main, *others)]
    done: set[asyncio.Task[Any]] = set()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await end_all(tasks)
    _raise_first(tasks, done)
    return tasks[0].result()  # type: ignore[no-any-return]


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
