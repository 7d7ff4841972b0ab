"""Reads the frames in a chunk, and does what takes long in turns, such as a header of many tensors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar
from weakref import WeakValueDictionary

from metisfl_async.codec.chunk import split
from metisfl_async.codec.frame import End, Frame, decoding
from metisfl_async.core.errors import Damaged

__all__ = ["REST", "OneAtATime", "frames_in", "in_turns"]

REST = 6  #: times as long as a step took

T = TypeVar("T")


async def frames_in(
    chunk: bytes, read: Callable[[Generator[None, None, Frame]], Awaitable[Frame]] | None = None
) -> list[Frame]:
    """Read all frames of a Chunk message; payloads are views of it.

    Parameters
    ----------
    chunk : bytes
    read : callable
        Does the steps of a frame; `in_turns`, unless it is given.

    Raises
    ------
    CodecError
        If the bytes are not whole, sane frames, or one stands behind the end frame.
    """
    frames: list[Frame] = []
    for view in split(chunk):
        if frames and isinstance(frames[-1], End):
            raise Damaged("stream", "a frame after the end frame")
        frames.append(await (read or in_turns)(decoding(view)))
    return frames


async def in_turns(steps: Generator[None, None, T]) -> T:
    """Do some work on the loop step by step; others get their turn between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)


class OneAtATime:
    """Does work of several steps for many parties: one at a time, with a rest after each step.

    A step keeps the loop for milliseconds. If each of thirty headers took one whenever the loop comes round, everybody
    else would wait for thirty. So others have the loop to themselves for most of the time, whoever sends whatever; of
    one party, no more than one is in the queue.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._rests_until = 0.0  # on the monotonic clock; also when whoever had the turn is gone
        self._of_party: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()

    async def do(self, steps: Generator[None, None, T], party: object) -> T:
        """Do some work for a party; what takes only one step does not wait."""
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        async with self._of_party.setdefault(party, asyncio.Lock()), self._turn:
            while True:
                await asyncio.sleep(self._rests_until - time.monotonic())
                began_at = time.thread_time()
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                finally:
                    self._rests_until = time.monotonic() + REST * (time.thread_time() - began_at)
