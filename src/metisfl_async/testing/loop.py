"""An event loop that does not wait: when nothing is left to do, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

__all__ = ["Deadlock", "VirtualLoop", "run"]

T = TypeVar("T")

NO_SOCKETS = "a virtual loop has no sockets, so no gRPC: leave server_params away, or use asyncio's loop"


class Deadlock(RuntimeError):
    """Nothing can happen any more: all tasks wait, and there is no timer."""


class _Clock(selectors.DefaultSelector):
    """Stands for the selector of a loop, and moves its clock instead of waiting."""

    now = 0.0  #: seconds
    holders = 0  #: who wait for other threads

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.holders:
            return super().select(None if timeout is None or timeout > 0 else 0)
        if ready := super().select(0):
            return ready
        if timeout is None:
            raise Deadlock(f"all tasks wait, and nothing is due:\n{_waiting()}")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on which an hour's waiting takes no time.

    What goes to an executor is done on the loop's own thread, at once, as far as the clock is concerned; so a run is
    the same each time. Sockets are refused: others would have to live by this clock, too.

    Parameters
    ----------
    seed : int, optional
        Tasks that are ready go on in an order that is drawn; without it, in the order in which they became ready.
    """

    is_virtual = True  #: its time says nothing about the machine

    def __init__(self, seed: int | None = None) -> None:
        self._clock = _Clock()
        self._rng = None if seed is None else random.Random(seed)
        self.unclosed: list[str] = []  #: async generators that nobody followed to their end or closed
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the clock stand still while something is waited for that another thread or process does."""
        self._clock.holders += 1
        try:
            yield
        finally:
            self._clock.holders -= 1

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def call() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - whatever the function raises
                future.set_exception(error)

        self.call_soon(call)
        return future

    def add_reader(self, *_: object) -> None:
        raise RuntimeError(NO_SOCKETS)

    def add_writer(self, *_: object) -> None:
        raise RuntimeError(NO_SOCKETS)

    def _run_once(self) -> None:
        if self._rng is not None:
            _shuffle(self._ready, self._rng)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self.unclosed.append(getattr(agen, "__qualname__", repr(agen)))
        super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T], seed: int | None = None) -> T:
    """Do what `asyncio.run` does, on a `VirtualLoop`."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(main)


def _shuffle(ready: Any, rng: random.Random) -> None:
    """Let tasks that are ready change places; callbacks of other kinds keep theirs, whose order is promised."""
    places = [place for place, handle in enumerate(ready) if _is_of_task(handle)]
    handles = [ready[place] for place in places]
    rng.shuffle(handles)
    for place, handle in zip(places, handles, strict=True):
        ready[place] = handle


def _is_of_task(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(cast("Any", handle)._callback, "__self__", None), asyncio.Task)


def _waiting() -> str:
    return "\n".join(sorted(f"    {task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks()))
