from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from metisfl_async.codec.chunk import MAX_FRAMES, MAX_UNKNOWN, frame_head, split
from metisfl_async.core.errors import CodecError, Damaged, Truncated
from metisfl_async.transport._proto.metisfl_pb2 import Chunk

#: On both sides of every length at which the varint grows.
SIZES = [0, 1, 2, 127, 128, 129, 300, 16383, 16384, 2**20 - 1, 2**20, 2**20 + 1, 2**21 - 1, 2**21, 2**21 + 1]
several = st.lists(st.binary(), min_size=1, max_size=MAX_FRAMES)


def frame_of_size(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def chunk_of(*frames: bytes) -> bytes:
    return b"".join(frame_head(len(frame)) + frame for frame in frames)


@pytest.mark.parametrize("size", SIZES)
def test_what_we_write_is_what_protobuf_writes(size: int) -> None:
    frame = frame_of_size(size)
    assert chunk_of(frame, b"x", frame) == Chunk(frames=[frame, b"x", frame]).SerializeToString()


@pytest.mark.parametrize("size", SIZES)
def test_protobuf_reads_what_we_write(size: int) -> None:
    frame = frame_of_size(size)
    assert Chunk.FromString(chunk_of(frame, b"x")).frames == [frame, b"x"]


@pytest.mark.parametrize("size", SIZES)
def test_we_read_what_protobuf_writes(size: int) -> None:
    frame = frame_of_size(size)
    assert split(Chunk(frames=[frame, b"x"]).SerializeToString()) == [frame, b"x"]


@given(several)
@example([b""])
def test_any_frames_come_back(frames: list[bytes]) -> None:
    assert split(chunk_of(*frames)) == frames


@given(st.integers(1, 2**35 - 1))
def test_the_head_of_any_size_says_that_size(size: int) -> None:
    with pytest.raises(Truncated, match=f" 0 of {size} bytes"):
        split(frame_head(size))


@pytest.mark.parametrize("size", SIZES)
def test_reading_copies_nothing(size: int) -> None:
    chunk = Chunk(frames=[frame_of_size(size), b"x"]).SerializeToString()
    assert [frame.obj is chunk for frame in split(chunk)] == [True, True]


@pytest.mark.parametrize("size", [1, 127, 128, 16384])
def test_every_truncation_is_noticed(size: int) -> None:
    for before in ((), (b"abc",)):
        begin, chunk = len(chunk_of(*before)), chunk_of(*before, frame_of_size(size))
        for end in {1, 2, 3, size // 2, size, len(chunk) - begin - 1} - {0, len(chunk) - begin}:
            with pytest.raises(CodecError):
                split(chunk[: begin + end])


@pytest.mark.parametrize(
    ("chunk", "error", "fact"),
    [
        (b"", Damaged, "no frame"),
        (b"\x12\x01a", Damaged, "no frame"),
        (b"\x0a\x03ab", Truncated, "2 of 3 bytes"),
        (b"\x0a\x01a\x0a\x02b", Truncated, "1 of 2 bytes"),
        (b"\x0a\x02abc", Damaged, "0x63"),
        (b"\x0a\x01a\x12\x03b", Truncated, "1 of 3 bytes"),
        (b"\x0a\x01a\x15abc", Truncated, "3 of 4 bytes"),
        (b"\x00", Damaged, "tag 0x00"),
        (b"\x8a\x00\x01a", Damaged, "tag 0x0a"),
        (b"\xf8\xff\xff\xff\x7f\x00", Damaged, "tag"),
        (b"\x13\x14", Damaged, "tag 0x13"),
        (b"\x16", Damaged, "tag 0x16"),
        (b"\x0a", Damaged, "varint"),
        (b"\x0a\x80", Damaged, "varint"),
        (b"\x0a\xff\xff\xff\xff\xff\x01", Damaged, "varint"),
        (b"\x08" + b"\xff" * 10 + b"\x01", Damaged, "varint"),
        (b"\x0a\xff\xff\xff\xff\x7f", Truncated, f"0 of {2**35 - 1} bytes"),
        (b"\x0a\x00" * (MAX_FRAMES + 1), Damaged, f"more than {MAX_FRAMES} frames"),
        (b"\x0a\x00" + b"\x12\x00" * (MAX_UNKNOWN + 1), Damaged, f"more than {MAX_UNKNOWN} fields"),
    ],
)
def test_anything_but_whole_fields_is_refused(chunk: bytes, error: type[CodecError], fact: str) -> None:
    with pytest.raises(error, match=fact) as caught:
        split(chunk)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "unknown",
    [
        b"\x12\x01b",
        b"\x08\x01",
        b"\x08" + b"\xff" * 9 + b"\x01",
        b"\x11abcdefgh",
        b"\x15abcd",
        b"\x92\x03\x02ab",
        b"\x12\x00" * MAX_UNKNOWN,
    ],
)
def test_fields_that_are_not_known_are_skipped_as_protobuf_skips_them(unknown: bytes) -> None:
    for chunk in (unknown + b"\x0a\x01a", b"\x0a\x01a" + unknown, b"\x0a\x01a" + unknown + b"\x0a\x02bc"):
        assert split(chunk) == Chunk.FromString(chunk).frames


@given(st.binary() | st.binary().map(b"\x0a".__add__))
def test_random_bytes_are_frames_that_protobuf_agrees_with_or_an_error_of_ours(chunk: bytes) -> None:
    try:
        frames = split(chunk)
    except CodecError:
        return
    try:
        assert Chunk.FromString(chunk).frames == frames
    except DecodeError:  # stricter than us in nothing
        pytest.fail(f"protobuf refuses {chunk!r}")
