"""The protobuf message ``Chunk { repeated bytes frames = 1; }``, written and read by hand.

Generated code copies a bytes field several times each way. This is the same wire, byte for byte: for each frame a tag,
the length as a varint, the frame; reading gives views instead of copies, and skips fields that are not known.
"""

from __future__ import annotations

from metisfl_async.core.errors import Damaged, Truncated

__all__ = ["MAX_FRAMES", "frame_head", "split"]

TAG = 0x0A  #: field 1, length-delimited
MAX_LENGTH_BYTES = 5  #: of a length or a tag, as a varint
MAX_VARINT_BYTES = 10
MAX_FRAMES = 16  #: in one chunk: they are dealt with at one go, and a million tiny ones would keep the event loop
MAX_UNKNOWN = 16  #: fields of a later version in one chunk, which are skipped

_FIXED = {1: 8, 5: 4}  # bytes of a value, by wire type


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
        If the bytes are not whole fields, or none of them is a frame.
    """
    frames: list[memoryview] = []
    rest, unknown = memoryview(chunk), 0
    while rest:
        if rest[0] != TAG:
            unknown += 1
            if unknown > MAX_UNKNOWN:
                raise Damaged("Chunk", f"more than {MAX_UNKNOWN} fields that are not known")
            rest = _skip(rest)
            continue
        if len(frames) == MAX_FRAMES:
            raise Damaged("Chunk", f"more than {MAX_FRAMES} frames")
        size, rest = _read_varint(rest[1:], MAX_LENGTH_BYTES)
        frame, rest = _cut(rest, size)
        frames.append(frame)
    if not frames:
        raise Damaged("Chunk", "no frame in it")
    return frames


def _skip(view: memoryview) -> memoryview:
    """Give what follows a field that is not known."""
    tag, view = _read_varint(view, MAX_LENGTH_BYTES)
    number, wire_type = tag >> 3, tag & 7
    if not 0 < number < 2**29 or tag == TAG:
        raise Damaged("Chunk", f"a tag {tag:#04x}, written as none is")
    match wire_type:
        case 0:
            return _read_varint(view, MAX_VARINT_BYTES)[1]
        case 2:
            size, view = _read_varint(view, MAX_LENGTH_BYTES)
        case _ if wire_type in _FIXED:
            size = _FIXED[wire_type]
        case _:
            raise Damaged("Chunk", f"a tag {tag:#04x}, of a kind that proto3 has not")
    return _cut(view, size)[1]


def _cut(view: memoryview, size: int) -> tuple[memoryview, memoryview]:
    """Part so many bytes from what follows."""
    if len(view) < size:
        raise Truncated("Chunk", f"{len(view)} of {size} bytes")
    return view[:size], view[size:]


def _read_varint(view: memoryview, most_bytes: int) -> tuple[int, memoryview]:
    """Read a number; it, and what follows."""
    value = 0
    for index, byte in enumerate(view[:most_bytes]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, view[index + 1 :]
    raise Damaged("Chunk", "a tag or a length is not a varint")
