"""The protobuf message ``Chunk { repeated bytes frames = 1; }``, written and read by hand.

Generated code copies a bytes field several times each way. This is the same wire, byte for byte: for each frame a tag,
the length as a varint, the frame; reading gives views instead of copies.
"""

from __future__ import annotations

from metisfl_async.core.errors import Damaged, Truncated

__all__ = ["MAX_FRAMES", "frame_head", "split"]

TAG = 0x0A  #: field 1, length-delimited
MAX_VARINT_BYTES = 5
MAX_FRAMES = 16  #: in one chunk: they are dealt with at one go, and a million tiny ones would keep the event loop


def frame_head(size_bytes: int) -> bytes:
    """Make the bytes that stand before a frame of this size."""
    head = bytearray([TAG])
    while size_bytes > 0x7F:
        head.append(size_bytes & 0x7F | 0x80)
        size_bytes >>= 7
    head.append(size_bytes)
    return bytes(head)


def split(chunk: bytes) -> list[memoryview]:
    """View the frames in a Chunk, 1 to `MAX_FRAMES`; nothing is copied.

    Raises
    ------
    Damaged, Truncated
        If the bytes are anything but fields 1 of the lengths that are there.
    """
    frames: list[memoryview] = []
    rest = memoryview(chunk)
    while rest:
        if len(frames) == MAX_FRAMES:
            raise Damaged("Chunk", f"more than {MAX_FRAMES} frames")
        if rest[0] != TAG:
            raise Damaged("Chunk", f"byte {rest[0]:#04x} where a frame should begin with field 1, {TAG:#04x}")
        size, rest = _read_varint(rest[1:])
        if len(rest) < size:
            raise Truncated("Chunk", f"{len(rest)} of {size} bytes")
        frames.append(rest[:size])
        rest = rest[size:]
    if not frames:
        raise Truncated("Chunk", "no frame in it")
    return frames


def _read_varint(view: memoryview) -> tuple[int, memoryview]:
    """Read a number; it, and what follows."""
    value = 0
    for index, byte in enumerate(view[:MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, view[index + 1 :]
    raise Damaged("Chunk", "the length is not a varint")
