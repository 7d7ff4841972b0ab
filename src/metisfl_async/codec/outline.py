"""What a frame says, bounded before Python makes anything of it.

`outline` finds where the values of a map begin and end; msgpack skips them in C and allocates nothing, whatever they
claim. `value_of` makes a value of which the size is known to be small, and counts what is in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

from metisfl_async.core.errors import CodecError, Damaged, TooLarge

__all__ = [
    "MAX_CONTAINERS",
    "MAX_ENTRIES",
    "MAX_KEYS",
    "MAX_TEXT_BYTES",
    "MAX_VALUES",
    "MAX_VALUE_BYTES",
    "is_list",
    "kind_of",
    "outline",
    "reading",
    "unpacker",
    "value_of",
]

MAX_KEYS = 64  #: in a header, those that are not known among them
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 64 * 1024  #: of each value in a header but the manifest
MAX_TEXT_BYTES = 64 * 1024  #: of a tensor's name
MAX_VALUES = 16 * 1024  #: in metrics, and in metadata, however deep
MAX_CONTAINERS = 1024  #: lists and maps in metadata
MAX_ENTRIES = 4096  #: in one map

_BUFFER_BYTES = 2 * MAX_TEXT_BYTES  # msgpack keeps one text whole, and nothing else
_READ_BYTES = 16 * 1024  # it reads on by so much
_KINDS = {0xC0: "NoneType", 0xC2: "bool", 0xC3: "bool", 0xCA: "float", 0xCB: "float"}


class _Source:
    """Gives msgpack a frame piece by piece, as far as `end`."""

    def __init__(self, frame: memoryview) -> None:
        self.end = len(frame)
        self._frame, self._position = frame, 0

    def read(self, size: int) -> bytes:
        piece = bytes(self._frame[self._position : min(self._position + size, self.end)])
        self._position += len(piece)
        return piece


def outline(frame: memoryview, long: str) -> dict[str, memoryview]:
    """Find the values of a map by their keys; only the one under the key `long` may be long.

    Raises
    ------
    CodecError
        If the frame is not one map with different texts as keys, or one of its values is too large.
    """
    if not _is_map(frame[0]):
        raise Damaged("frame", f"a {kind_of(frame[0])} instead of a map")
    values: dict[str, memoryview] = {}
    source = _Source(frame)
    with reading("frame"):
        reader = unpacker(source, max_text_bytes=MAX_KEY_BYTES)
        if (size := reader.read_map_header()) > MAX_KEYS:
            raise TooLarge("frame", f"{size} keys; at most {MAX_KEYS}")
        for _ in range(size):
            key = reader.unpack()
            if not isinstance(key, str):
                raise Damaged("frame", f"a {type(key).__name__} as a key of a map")
            if key in values:
                raise Damaged("frame", "a key stands twice in a map")
            start = reader.tell()
            source.end = len(frame) if key == long else min(start + MAX_VALUE_BYTES + _READ_BYTES, len(frame))
            try:
                reader.skip()
            except msgpack.OutOfData:
                if source.end < len(frame):
                    raise _too_large(key) from None
                raise
            source.end = len(frame)
            values[key] = frame[start : reader.tell()]
            if key != long and len(values[key]) > MAX_VALUE_BYTES:
                raise _too_large(key)
        if (rest := len(frame) - reader.tell()) > 0:
            raise Damaged("frame", f"{rest} bytes follow the map")
    return values


def value_of(packed: memoryview, where: str) -> Any:
    """Make a value of the bytes that `outline` has found it to be."""
    containers = values = 0

    def count(items: Collection[object]) -> None:
        nonlocal containers, values
        containers, values = containers + 1, values + len(items)
        if containers > MAX_CONTAINERS or values > MAX_VALUES:
            raise TooLarge(where, f"more than {MAX_CONTAINERS} lists and maps, or {MAX_VALUES} values in them")
        _refuse_timestamps(items)

    def counted(items: list[Any]) -> list[Any]:
        count(items)
        return items

    def counted_map(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise Damaged(where, "a key stands twice in a map")
        count(fields.values())
        return fields

    with reading(where):
        value = msgpack.unpackb(
            packed,
            max_str_len=MAX_VALUE_BYTES,
            max_bin_len=1024,
            max_array_len=min(MAX_VALUES, len(packed)),  # msgpack makes room for a claim before it reads on
            max_map_len=MAX_ENTRIES,
            list_hook=counted,
            object_pairs_hook=counted_map,
            ext_hook=_no_extension,
        )
        _refuse_timestamps([value])
        return value


def unpacker(packed: memoryview | _Source, *, max_array_len: int = 0, max_text_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Make what reads msgpack piece by piece."""
    return msgpack.Unpacker(
        _Source(packed) if isinstance(packed, memoryview) else packed,
        read_size=_READ_BYTES,
        max_buffer_size=_BUFFER_BYTES,
        max_str_len=max_text_bytes,
        max_bin_len=max_text_bytes,
        max_array_len=max_array_len,
        max_map_len=0,
        ext_hook=_no_extension,
    )


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Around the use of msgpack: raise our errors instead of its many types, all of which mean wrong bytes."""
    try:
        yield
    except CodecError:
        raise
    except msgpack.BufferFull:
        raise TooLarge(where, f"a text or bytes of more than {MAX_TEXT_BYTES}") from None
    except Exception as error:
        raise Damaged(where, f"not one msgpack object: {str(error) or type(error).__name__}") from error


def _refuse_timestamps(items: Iterable[object]) -> None:
    """Refuse the one extension that msgpack reads without asking."""
    if msgpack.Timestamp in map(type, items):
        _no_extension(-1, b"")


def _no_extension(code: int, _data: bytes) -> object:
    raise Damaged("frame", f"a msgpack extension (type {code}); none is used here")


def _too_large(key: str) -> TooLarge:
    return TooLarge("header", f"more than {MAX_VALUE_BYTES} bytes of {key!r}")


def _is_map(first: int) -> bool:
    return first & 0xF0 == 0x80 or first in (0xDE, 0xDF)


def is_list(first: int) -> bool:
    """Say whether a list begins with this byte."""
    return first & 0xF0 == 0x90 or first in (0xDC, 0xDD)


def kind_of(first: int) -> str:
    """Name what begins with this byte, as Python does."""
    if is_list(first):
        return "list"
    if _is_map(first):
        return "dict"
    if first & 0xE0 == 0xA0 or 0xD9 <= first <= 0xDB:
        return "str"
    if first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3:
        return "int"
    return _KINDS.get(first, "bytes" if 0xC4 <= first <= 0xC6 else "msgpack extension")
