"""Reads the frames in a chunk, and lets others have their turn while a header of many tensors is read."""

from __future__ import annotations

import asyncio

from metisfl_async.codec.chunk import split
from metisfl_async.codec.frame import End, Frame, decoding
from metisfl_async.core.errors import Damaged

__all__ = ["frames_in"]


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
        steps = decoding(view)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                frames.append(end.value)
                break
            await asyncio.sleep(0)
    return frames
