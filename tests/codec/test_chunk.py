from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from metisfl_async.codec.chunk import chunk_header, frame_of_chunk
from metisfl_async.core.errors import CodecError, Damaged, Truncated
from metisfl_async.transport._proto.metisfl_pb2 import Chunk

#: On both sides of every length at which the varint grows.
SIZES = [0, 1, 2, 127, 128, 129, 300, 16383, 16384, 2**20 - 1, 2**20, 2**20 + 1, 2**21 - 1, 2**21, 2**21 + 1]


def frame_of_size(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_what_we_write_is_what_protobuf_writes(size: int) -> None:
    frame = frame_of_size(size)
    assert chunk_header(size) + frame == Chunk(frame=frame).SerializeToString()


@pytest.mark.parametrize("size", SIZES)
def test_protobuf_reads_what_we_write(size: int) -> None:
    frame = frame_of_size(size)
    assert Chunk.FromString(chunk_header(size) + frame).frame == frame


@pytest.mark.parametrize("size", SIZES)
def test_we_read_what_protobuf_writes(size: int) -> None:
    frame = frame_of_size(size)
    assert frame_of_chunk(Chunk(frame=frame).SerializeToString()) == frame


@given(st.binary())
@example(b"")
def test_any_frame_comes_back(frame: bytes) -> None:
    assert frame_of_chunk(chunk_header(len(frame)) + frame) == frame


@given(st.integers(1, 2**35 - 1))
def test_the_header_of_any_size_says_that_size(size: int) -> None:
    with pytest.raises(Truncated, match=f" 0 of {size} bytes"):
        frame_of_chunk(chunk_header(size))


@pytest.mark.parametrize("size", SIZES)
def test_reading_copies_nothing(size: int) -> None:
    chunk = Chunk(frame=frame_of_size(size)).SerializeToString()
    assert frame_of_chunk(chunk).obj is chunk


@pytest.mark.parametrize("size", [1, 127, 128, 16384])
def test_every_truncation_is_noticed(size: int) -> None:
    chunk = chunk_header(size) + frame_of_size(size)
    for end in {1, 2, 3, size // 2, size, len(chunk) - 1} - {0, len(chunk)}:
        with pytest.raises(CodecError):
            frame_of_chunk(chunk[:end])


@pytest.mark.parametrize(
    ("chunk", "error", "fact"),
    [
        (b"\x0a\x03ab", Truncated, "2 of 3 bytes"),
        (b"\x0a\x02abc", Damaged, "1 bytes follow"),
        (b"\x0a\x01a\x0a\x01b", Damaged, "3 bytes follow"),  # the field twice, legal protobuf: the last would win
        (b"\x12\x01a", Damaged, "0x12"),
        (b"\x08\x01", Damaged, "0x08"),
        (b"\x00", Damaged, "0x00"),
        (b"\x0a", Damaged, "varint"),
        (b"\x0a\x80", Damaged, "varint"),
        (b"\x0a\xff\xff\xff\xff\xff\x01", Damaged, "varint"),
        (b"\x0a\xff\xff\xff\xff\x7f", Truncated, f"0 of {2**35 - 1} bytes"),
    ],
)
def test_anything_but_one_whole_field_1_is_refused(chunk: bytes, error: type[CodecError], fact: str) -> None:
    with pytest.raises(error, match=fact) as caught:
        frame_of_chunk(chunk)
    assert type(caught.value) is error


@given(st.binary() | st.binary().map(b"\x0a".__add__))
def test_random_bytes_are_a_frame_that_protobuf_agrees_with_or_an_error_of_ours(chunk: bytes) -> None:
    try:
        frame = frame_of_chunk(chunk)
    except CodecError:
        return
    try:
        assert Chunk.FromString(chunk).frame == frame
    except DecodeError:  # stricter than us in nothing
        pytest.fail(f"protobuf refuses {chunk!r}")
