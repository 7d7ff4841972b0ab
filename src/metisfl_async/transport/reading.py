"""Reads the frames in a chunk, and does what takes long in turns, such as a header of many tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

from metisfl_async.codec.chunk import split
from metisfl_async.codec.frame import End, Frame, decoding
from metisfl_async.core.errors import Damaged

__all__ = ["frames_in", "in_turns"]

T = TypeVar("T")


async def frames_in(chunk: bytes) -> list[Frame]:
    """Read all frames of a Chunk message; payloads are views of it.

    Raises
    ------
    CodecError
        If the bytes are not whole, sane frames, or one stands behind the end frame.
    """
    frames: list[Frame] = []
    for view in split(chunk):
        if frames and isinstance(frames[-1], End):
            raise Damaged("stream", "a frame after the end frame")
        frames.append(await in_turns(decoding(view)))
    return frames


async def in_turns(steps: Generator[None, None, T]) -> T:
    """Do some work on the loop step by step; others get their turn between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)
