"""The protobuf message ``Chunk { bytes frame = 1; }``, written and read by hand.

Generated code copies a bytes field several times each way. This is the same wire, byte for byte: a tag, the length as a
varint, the frame; reading it gives a view instead of copies.
"""

from __future__ import annotations

from metisfl_async.core.errors import Damaged, Truncated

__all__ = ["chunk_header", "frame_of_chunk"]

TAG = 0x0A  #: field 1, length-delimited
MAX_VARINT_BYTES = 5


def chunk_header(size_bytes: int) -> bytes:
    """Make the bytes that stand before a frame of this size; an empty frame is an empty message."""
    if not size_bytes:
        return b""
    head = bytearray([TAG])
    while size_bytes > 0x7F:
        head.append(size_bytes & 0x7F | 0x80)
        size_bytes >>= 7
    head.append(size_bytes)
    return bytes(head)


def frame_of_chunk(chunk: bytes) -> memoryview:
    """View the frame inside a Chunk; nothing is copied.

    Raises
    ------
    Damaged, Truncated
        If the bytes are anything but one field 1 of the length that is there.
    """
    view = memoryview(chunk)
    if not view:
        return view
    if view[0] != TAG:
        raise Damaged("Chunk", f"starts with byte {view[0]:#04x} instead of field 1, {TAG:#04x}")
    size = 0
    for index, byte in enumerate(view[1 : 1 + MAX_VARINT_BYTES]):
        size |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            frame = view[2 + index :]
            break
    else:
        raise Damaged("Chunk", "the length is not a varint")
    if len(frame) < size:
        raise Truncated("Chunk", f"{len(frame)} of {size} bytes")
    if len(frame) > size:
        raise Damaged("Chunk", f"{len(frame) - size} bytes follow the frame")
    return frame
