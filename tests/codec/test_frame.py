from __future__ import annotations

import itertools
import math
import struct
import tracemalloc
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from metisfl_async.codec import frame as frame_module
from metisfl_async.codec import publication as publication_module
from metisfl_async.codec.chunk import frame_head, split
from metisfl_async.codec.frame import (
    MAX_FRAME_BYTES,
    SHARED_MANIFEST_BYTES,
    SPARE_FRAMES,
    Assembly,
    Data,
    End,
    Frame,
    Header,
    bundles_of,
    check_size,
    content_of,
    digesting,
    encode,
    frames_of,
    most_frames,
)
from metisfl_async.codec.manifest import MAX_MODEL_BYTES, packed_manifest
from metisfl_async.codec.outline import MAX_VALUES
from metisfl_async.codec.pace import CHUNK_BYTES, Pace
from metisfl_async.codec.publication import Publication
from metisfl_async.core.errors import CodecError, Damaged, TooLarge, Truncated, UnknownDtype
from metisfl_async.core.model import DTYPES, Array, Manifest, Model, allocate


def header_of(model: Model) -> Header:
    return Header(
        "update",
        model.manifest,
        3,
        "task-1",
        {"loss": 0.5},
        {"site": "a", "sizes": [1, 2.5]},
        "federation-1",
        bytes(range(16)),
    )


def send(model: Model, header: Header | None = None, *, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    with mock.patch.object(frame_module, "CHUNK_BYTES", chunk_bytes):
        return [encode(frame) for frame in frames_of(header or header_of(model), model)]


def receive(chunks: Sequence[bytes]) -> Assembly:
    """Take a model as a receiver does: a header first, and nothing counts before the end frame."""
    frames = [frame_module.decode(frame) for chunk in chunks for frame in split(chunk)]
    if not frames or not isinstance(frames[0], Header):
        raise Damaged("stream", "no header")
    assembly = Assembly(frames[0], garbage(frames[0].manifest.size_bytes))
    for frame in frames[1:]:
        assembly.add(frame)
    if not assembly.is_complete:
        raise assembly.truncated()
    return assembly


def garbage(size_bytes: int) -> Any:
    """Make a buffer in which a byte never written shows."""
    buffer = allocate(size_bytes)
    buffer[:] = 0xAA
    return buffer


def chunk_of(packed: bytes) -> bytes:
    return frame_head(len(packed)) + packed


def frame_of_chunk(chunk: bytes) -> memoryview:
    (frame,) = split(chunk)
    return frame


def decode(chunk: bytes) -> Frame:
    return frame_module.decode(frame_of_chunk(chunk))


#: A header that is accepted as it is, for tests to spoil.
HEADER_FIELDS: dict[str, object] = {
    "kind": "update",
    "task_id": "task-1",
    "content": bytes(range(16)),
    "model_version": 3,
    "codec": "raw",
    "size_bytes": 68,
    "manifest": [["w", "float32", [2, 3], 0], ["b", "int8", [4], 64]],
    "metrics": {"loss": 0.5},
    "metadata": {"site": "a"},
}
MODEL = Model.from_arrays([np.arange(20, dtype=np.float32), np.arange(5), np.array(math.pi)], ["w", "b", "c"])
STREAM = send(MODEL, chunk_bytes=64)  #: a header, 4 data frames, an end frame
ANY_BYTE = range(256)


def test_the_stream_spoiled_in_these_tests_is_whole() -> None:
    assert len(STREAM) == 6
    assert_same(receive(STREAM).model, MODEL)


def assert_same(model: Model, other: Model) -> None:
    assert model.manifest == other.manifest
    assert model.buffer.tobytes() == other.buffer.tobytes()


# Round trips


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Any, Array]:
    """An array of any bits in any memory layout, and the same as a plain C array."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    dtype = DTYPES[name]
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = math.prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.just(b"\xff" * size) | st.binary(min_size=size, max_size=size)), np.uint8)
    plain = (raw & 1 if name == "bool" else raw).view(dtype).reshape(shape)
    layout = draw(st.sampled_from(["C", "Fortran", "strided", "negative strides", "big-endian", "scalar"]))
    if layout == "Fortran":
        return plain.copy(order="F"), plain
    if layout == "strided" and shape:
        return np.repeat(plain, 2, axis=-1)[..., ::2], plain
    if layout == "negative strides":
        return np.flip(np.flip(plain).copy()), plain
    if layout == "big-endian" and name != "bfloat16":  # ml_dtypes has no big-endian form
        return plain.byteswap().view(dtype.newbyteorder(">")), plain
    if layout == "scalar" and not shape:
        return plain[()], plain
    return plain, plain


@given(st.lists(tensors(), max_size=5), st.integers(1, 200))
def test_arrays_of_every_dtype_shape_and_layout_come_back_bit_for_bit(
    pairs: list[tuple[Any, Array]], chunk_bytes: int
) -> None:
    model = Model.from_arrays([array for array, _ in pairs])
    with mock.patch.object(frame_module, "SPARE_FRAMES", 2**30):  # a byte is a frame too
        assembly = receive(send(model, chunk_bytes=chunk_bytes))
    received = assembly.model.arrays()
    assert assembly.header == header_of(model)
    assert assembly.model.version == 3
    assert len(received) == len(pairs)
    for array, (_, plain) in zip(received, pairs, strict=True):
        assert array.dtype == plain.dtype
        assert array.shape == plain.shape
        assert array.tobytes() == plain.tobytes()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
def test_models_around_the_size_of_a_chunk_come_back(size: int) -> None:
    model = Model.from_arrays([np.arange(size).astype(np.uint8)])
    chunks = send(model)
    assert len(chunks) == 2 + -(-size // CHUNK_BYTES)
    assert max(map(len, chunks)) < CHUNK_BYTES + 100
    assert_same(receive(chunks).model, model)


headers = st.builds(
    Header,
    kind=st.sampled_from(["global", "update"]),
    manifest=st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 9), max_size=3).map(tuple)))
    .map(lambda layout: [(f"tensor {index}", *tensor) for index, tensor in enumerate(layout)])
    .map(Manifest.lay_out),
    model_version=st.integers(0, 2**63),
    task_id=st.text(),
    content=st.just(b"") | st.binary(min_size=16, max_size=16),
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    metadata=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
            lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(), values, max_size=2),
            max_leaves=4,
        ),
        max_size=3,
    ),
)


@given(headers)
def test_every_header_comes_back_equal(header: Header) -> None:
    assert decode(encode(header)) == header


@given(st.binary(min_size=16, max_size=16))
def test_every_end_comes_back_equal(digest: bytes) -> None:
    assert decode(encode(End(digest))) == End(digest)


@given(st.integers(0, 2**64 - 1), st.binary())
def test_all_data_comes_back_equal(offset: int, payload: bytes) -> None:
    assert decode(encode(Data(offset, memoryview(payload)))) == Data(offset, memoryview(payload))


def test_a_header_needs_neither_task_content_metrics_nor_metadata() -> None:
    fields = {name: HEADER_FIELDS[name] for name in ("kind", "model_version", "codec", "size_bytes", "manifest")}
    header = decode(chunk_of(msgpack.packb(fields)))
    assert isinstance(header, Header)
    assert (header.task_id, header.content, header.metrics, header.metadata) == ("", b"", {}, {})


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    assert isinstance(decode(chunk_of(msgpack.packb(HEADER_FIELDS | {"priority": [1, "high"]}))), Header)


# Nothing is copied


def test_the_payload_of_decoded_data_is_a_view_of_the_chunk() -> None:
    chunk = encode(Data(5, memoryview(bytes(CHUNK_BYTES))))
    tracemalloc.start()
    try:
        data = decode(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(data, Data)
    assert data.payload.obj is chunk
    assert np.shares_memory(np.frombuffer(data.payload, np.uint8), np.frombuffer(chunk, np.uint8))
    assert peak < 10_000


def test_the_payloads_of_frames_are_views_of_the_model() -> None:
    model = Model.from_arrays([np.zeros(2 * CHUNK_BYTES + 1, np.uint8)])
    payloads = [frame.payload for frame in frames_of(header_of(model), model) if isinstance(frame, Data)]
    assert [len(payload) for payload in payloads] == [CHUNK_BYTES, CHUNK_BYTES, 1]
    assert all(np.shares_memory(np.frombuffer(payload, np.uint8), model.buffer) for payload in payloads)


@given(st.data())
def test_frames_may_share_chunks_in_any_way(data: st.DataObject) -> None:
    frames, chunks = [bytes(frame_of_chunk(chunk)) for chunk in STREAM], []
    while frames:
        count = data.draw(st.integers(1, len(frames)))
        chunks.append(b"".join(map(chunk_of, frames[:count])))
        frames = frames[count:]
    assert_same(receive(chunks).model, MODEL)


@pytest.mark.parametrize(
    ("size", "name_bytes", "bundles"),
    [
        (0, 1, [[Header, End]]),
        (1, 1, [[Header, Data, End]]),
        (CHUNK_BYTES, 1, [[Header, Data, End]]),
        (CHUNK_BYTES + 1, 1, [[Header, Data], [Data, End]]),
        (2 * CHUNK_BYTES + 1, 1, [[Header, Data], [Data], [Data, End]]),
        (
            1,
            SHARED_MANIFEST_BYTES,
            [[Header], [Data, End]],
        ),  # a large header travels alone: together they might be too large
        (0, SHARED_MANIFEST_BYTES, [[Header], [End]]),
    ],
)
def test_the_header_goes_with_the_first_data_and_the_end_with_the_last(
    size: int, name_bytes: int, bundles: list[list[type]]
) -> None:
    model = Model.from_arrays([np.ones(size, np.int8)], ["x" * name_bytes])
    cut = list(bundles_of(header_of(model), model))
    assert [[type(frame) for frame in bundle] for bundle in cut] == bundles
    chunks = [encode(*bundle) for bundle in cut]
    assert_same(receive(chunks).model, model)
    published = [len(split(chunk)) for chunk, _ in Publication(model).chunks()]
    assert published == [len(bundle) for bundle in bundles]


def test_an_assembled_model_shares_the_buffer_it_was_given() -> None:
    header = decode(STREAM[0])
    assert isinstance(header, Header)
    buffer = garbage(MODEL.manifest.size_bytes + 1000)  # more room than needed
    assembly = Assembly(header, buffer)
    complete = [assembly.add(decode(chunk)) for chunk in STREAM[1:]]
    assert complete == [False, False, False, False, True]
    assert np.shares_memory(assembly.model.buffer, buffer)
    assert_same(assembly.model, MODEL)
    assert (buffer[MODEL.manifest.size_bytes :] == 0xAA).all()


def test_frames_that_were_never_bytes_assemble_too() -> None:
    frames = list(frames_of(header_of(MODEL), MODEL))
    assembly = Assembly(header_of(MODEL), garbage(MODEL.manifest.size_bytes))
    assert [assembly.add(frame) for frame in frames[1:]] == [False, True]
    assert_same(assembly.model, MODEL)


# The frames are plain msgpack


def test_the_frames_we_write_are_what_any_msgpack_library_reads() -> None:
    header, *data, end = [msgpack.unpackb(frame_of_chunk(chunk)) for chunk in STREAM]
    fields = {
        "kind": "update",
        "task_id": "task-1",
        "content": bytes(range(16)),
        "model_version": 3,
        "federation_id": "federation-1",
        "codec": "raw",
        "size_bytes": MODEL.manifest.size_bytes,
        "manifest": msgpack.unpackb(packed_manifest(MODEL.manifest)),
        "metrics": {"loss": 0.5},
        "metadata": {"site": "a", "sizes": [1, 2.5]},
    }
    buffer = MODEL.buffer.tobytes()
    assert header == fields
    assert data == [[offset, buffer[offset : offset + 64]] for offset in range(0, len(buffer), 64)]
    assert end == {"digest": xxhash.xxh3_128_digest(bytes(frame_of_chunk(STREAM[0])) + buffer)}


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, CHUNK_BYTES])
@pytest.mark.parametrize("offset", [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
def test_data_of_every_msgpack_size_class_is_read_alike(offset: int, size: int) -> None:
    payload = bytes(size)
    ours = encode(Data(offset, memoryview(payload)))
    assert msgpack.unpackb(frame_of_chunk(ours)) == [offset, payload]
    theirs = decode(chunk_of(msgpack.packb([offset, payload])))
    assert theirs == decode(ours) == Data(offset, memoryview(payload))


def test_a_stream_written_by_another_msgpack_library_is_read() -> None:
    header = msgpack.packb(dict(reversed(HEADER_FIELDS.items())), use_single_float=True)  # its own order, its own forms
    buffer = bytes(24) + bytes(40) + b"abcd"
    digest = xxhash.xxh3_128_digest(header + buffer)
    frames = [
        header,
        *(msgpack.packb([at, buffer[at : at + 30]]) for at in (0, 30, 60)),
        msgpack.packb({"digest": digest}),
    ]
    assert receive([chunk_of(frame) for frame in frames]).model.buffer.tobytes() == buffer


# Damage on the way


def test_every_truncation_of_every_frame_is_noticed() -> None:
    for chunk in STREAM:
        for end in range(len(chunk)):
            with pytest.raises(CodecError):
                decode(chunk[:end])


def test_a_stream_that_ends_before_its_end_frame_is_truncated() -> None:
    for count in range(1, len(STREAM)):
        with pytest.raises(Truncated) as caught:
            receive(STREAM[:count])
        assert f"ended after {min(64 * (count - 1), 200)} of 200 bytes" in caught.value.what


def test_every_flipped_bit_in_a_stream_is_noticed() -> None:
    for index, chunk in enumerate(STREAM):
        for position, bit in itertools.product(range(len(chunk)), range(8)):
            damaged = bytearray(chunk)
            damaged[position] ^= 1 << bit
            with pytest.raises(CodecError):
                receive([*STREAM[:index], bytes(damaged), *STREAM[index + 1 :]])


places = st.integers(0, len(STREAM) - 1).flatmap(
    lambda index: st.tuples(st.just(index), st.integers(0, len(STREAM[index]) - 1))
)


@given(places, st.integers(1, 255))
def test_every_changed_byte_in_a_stream_is_noticed(place: tuple[int, int], change: int) -> None:
    index, position = place
    damaged = bytearray(STREAM[index])
    damaged[position] ^= change
    with pytest.raises(CodecError):
        receive([*STREAM[:index], bytes(damaged), *STREAM[index + 1 :]])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda header: replace(header, metrics={"loss": 0.25}), id="metric"),
        pytest.param(lambda header: replace(header, model_version=2), id="version"),
        pytest.param(lambda header: replace(header, task_id="task-2"), id="task"),
        pytest.param(  # the padding after the tensor hides a larger shape from offsets and sizes
            lambda header: replace(
                header, manifest=Manifest.lay_out([("w", "float32", (21,)), ("b", "int64", (5,)), ("c", "float64", ())])
            ),
            id="shape",
        ),
    ],
)
def test_a_header_changed_on_the_way_is_noticed_though_it_is_a_sound_one(spoil: Any) -> None:
    header = decode(STREAM[0])
    assert isinstance(header, Header)
    with pytest.raises(Damaged, match="digest"):
        receive([encode(spoil(header)), *STREAM[1:]])


@given(st.lists(st.integers(0, len(STREAM) - 1), max_size=8))
@example([])
@example([0, 1, 2, 3, 4, 5, 5])
@example([0, 1, 2, 3, 4, 5, 1])
@example([0, 0, 1, 2, 3, 4, 5])
@example([0, 5])
@example([0, 1, 2, 2, 3, 4, 5])
def test_only_all_frames_once_and_in_order_make_a_model(order: list[int]) -> None:
    chunks = [STREAM[index] for index in order]
    if order == [0, 1, 2, 3, 4, 5]:
        assert_same(receive(chunks).model, MODEL)
    else:
        with pytest.raises(CodecError):
            receive(chunks)


@given(st.permutations(range(len(STREAM))))
def test_reordered_frames_are_refused(order: list[int]) -> None:
    if order != sorted(order):
        with pytest.raises(CodecError):
            receive([STREAM[index] for index in order])


def test_frames_of_two_models_do_not_mix() -> None:
    other = Model.from_arrays([-array for array in MODEL.arrays()], ["w", "b", "c"])
    others = send(other, chunk_bytes=64)
    for index in range(len(STREAM)):
        mixed = [*STREAM[:index], others[index], *STREAM[index + 1 :]]
        if mixed != STREAM:  # the headers are equal
            with pytest.raises(Damaged):
                receive(mixed)


@pytest.mark.parametrize(
    ("frame", "error", "fact"),
    [
        (Data(0, memoryview(b"")), Damaged, "empty"),  # else a stream could go on for ever
        (Data(1, memoryview(b"a")), Damaged, "offset 1 after 0"),
        (Data(2**64 - 1, memoryview(b"a")), Damaged, f"offset {2**64 - 1} after 0"),
        (Data(0, memoryview(bytes(201))), Damaged, "bytes 0 to 201 of a model of 200"),
        (End(bytes(16)), Truncated, "0 of 200"),
        (header_of(MODEL), Damaged, "second header"),
    ],
)
def test_a_frame_out_of_place_is_refused_and_changes_nothing(frame: Frame, error: type[CodecError], fact: str) -> None:
    assembly = Assembly(header_of(MODEL), garbage(200))
    with pytest.raises(error, match=fact) as caught:
        assembly.add(frame)
    assert type(caught.value) is error
    assert assembly.received_bytes == 0
    assert not assembly.is_complete
    assert (assembly.model.buffer == 0xAA).all()


@pytest.mark.parametrize("frame", [header_of(MODEL), Data(200, memoryview(b"a")), End(bytes(16))])
def test_no_frame_is_taken_after_the_end(frame: Frame) -> None:
    assembly = receive(STREAM)
    with pytest.raises(Damaged, match="after the end"):
        assembly.add(frame)
    assert assembly.is_complete


def test_padding_that_is_not_zero_is_refused_even_under_a_true_digest() -> None:
    model = Model.from_arrays([np.zeros(1), np.zeros(1)])
    model.buffer[model.manifest.padding[-1]] = 1
    with pytest.raises(Damaged, match="padding"):
        receive(send(model))


# Hostile bytes


@given(st.binary() | st.binary().map(chunk_of) | st.binary().map(b"\x92".__add__).map(chunk_of))
@example(b"")
@example(b"\x0a\x00")
def test_random_bytes_are_a_frame_or_an_error_of_ours(chunk: bytes) -> None:
    try:
        frame = decode(chunk)
    except CodecError:
        return
    assert isinstance(frame, Header | Data | End)


wire_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=16)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**34)),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), values, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*HEADER_FIELDS, "digest"]), wire_values, max_size=3), st.booleans())
def test_a_map_of_any_values_is_a_frame_or_an_error_of_ours(fields: dict[str, object], is_whole: bool) -> None:
    try:
        frame = decode(chunk_of(msgpack.packb((HEADER_FIELDS if is_whole else {}) | fields)))
    except CodecError:
        return
    assert isinstance(frame, Header | End)


@given(wire_values)
def test_any_msgpack_object_is_a_frame_or_an_error_of_ours(value: object) -> None:
    try:
        frame = decode(chunk_of(msgpack.packb(value)))
    except CodecError:
        return
    assert isinstance(frame, Data | End)


@pytest.mark.parametrize("value", [None, True, 1, -1, 0.5, "header", b"header", [], [1], [1, b"a", 2], [[]]])
def test_a_frame_that_is_neither_map_nor_pair_is_refused(value: object) -> None:
    with pytest.raises(Damaged, match=f"a {type(value).__name__} instead of a map"):
        decode(chunk_of(msgpack.packb(value)))


BAD_FIELDS: list[tuple[str, object, type[CodecError], str]] = [
    ("kind", "gossip", Damaged, "kind 'gossip'"),
    ("kind", None, Damaged, "kind None"),
    ("kind", ["update"], Damaged, r"kind \['update'\]"),
    ("codec", "pickle", Damaged, "codec 'pickle'"),
    ("codec", 1, Damaged, "codec 1"),
    ("model_version", -1, Damaged, "model_version -1"),
    ("model_version", True, Damaged, "model_version True"),
    ("model_version", 1.0, Damaged, "model_version 1.0"),
    ("model_version", None, Damaged, "model_version None"),
    ("size_bytes", 67, Damaged, "size_bytes 67, but the manifest takes 68"),
    ("size_bytes", 2**64 - 1, Damaged, f"size_bytes {2**64 - 1}, but"),
    ("size_bytes", None, Damaged, "size_bytes None"),
    ("size_bytes", 68.0, Damaged, "size_bytes 68.0"),
    ("task_id", msgpack.Timestamp(1), Damaged, "type -1"),
    ("metrics", {"loss": msgpack.Timestamp(1)}, Damaged, "type -1"),
    ("metadata", {"x": [1, msgpack.Timestamp(1, 1)]}, Damaged, "type -1"),
    ("manifest", [["w", "int8", [msgpack.Timestamp(1)], 0]], Damaged, r"tensor 0 \('w'\)"),
    ("task_id", 1, Damaged, "task_id"),
    ("content", None, Damaged, "content None"),
    ("content", b"short", Damaged, "content b'short'; allowed: 16 bytes"),
    ("metrics", [0.5], Damaged, "metrics"),
    ("metrics", {"loss": "low"}, Damaged, r"metrics\['loss'\] is 'low'"),
    ("metrics", {b"loss": 0.5}, Damaged, "a key of metrics"),
    ("metadata", ["a"], Damaged, "metadata is not a map"),
    ("metadata", None, Damaged, "metadata is not a map"),
    ("metadata", {"x": b"a"}, Damaged, r"metadata\['x'\]"),
    ("metadata", {"x": {b"y": 1}}, Damaged, r"a key of metadata\['x'\]"),
    ("metadata", {"x": [[[[[[[[1]]]]]]]]}, Damaged, "nesting"),
    ("manifest", None, Damaged, "a NoneType instead of a list"),
    ("manifest", {}, Damaged, "a dict instead of a list"),
    ("manifest", [["w", "O", [1], 0]], UnknownDtype, r"tensor 0 \('w'\): dtype 'O'"),
    ("manifest", [["w", "V2147483647", [1], 0]], UnknownDtype, "V2147483647"),
    ("manifest", [["w", "float32", [2**32, 2**32], 0]], TooLarge, r"tensor 0 \('w'\)"),
    ("manifest", [["w", "float32", [2**63], 0]], TooLarge, r"tensor 0 \('w'\)"),
    ("manifest", [["w", "float32", [True], 0]], Damaged, r"tensor 0 \('w'\)"),
    ("manifest", [["w", "int8", [1], 0], ["w", "int8", [1], 64]], Damaged, r"tensor 1 \('w'\)"),
    ("digest", "sixteen letters.", Damaged, "16 bytes"),
    ("digest", bytes(15), Damaged, "16 bytes"),
    ("digest", bytes(17), Damaged, "16 bytes"),
    ("digest", None, Damaged, "16 bytes"),
]


@pytest.mark.parametrize(("name", "value", "error", "fact"), BAD_FIELDS)
def test_a_field_that_makes_no_sense_is_refused_by_name(
    name: str, value: object, error: type[CodecError], fact: str
) -> None:
    with pytest.raises(error, match=fact) as caught:
        decode(chunk_of(msgpack.packb(HEADER_FIELDS | {name: value})))
    assert type(caught.value) is error


@pytest.mark.parametrize("missing", ["kind", "codec", "model_version", "size_bytes", "manifest"])
def test_a_header_without_a_field_it_needs_is_refused(missing: str) -> None:
    with pytest.raises(Damaged, match=missing):
        decode(chunk_of(msgpack.packb({name: value for name, value in HEADER_FIELDS.items() if name != missing})))


def packed_with(name: str, raw: bytes) -> bytes:
    """Pack the header with one field's value given as raw msgpack."""
    packed = [
        msgpack.packb(key) + (raw if key == name else msgpack.packb(value)) for key, value in HEADER_FIELDS.items()
    ]
    return bytes([0x80 | len(packed)]) + b"".join(packed)


each_field = pytest.mark.parametrize("name", HEADER_FIELDS)


@each_field
@pytest.mark.parametrize("code", [-128, -2, -1, 0, 1, 127])
@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 16, 3, 300])
def test_extension_types_are_refused_wherever_they_stand(name: str, code: int, size: int) -> None:
    raw = {
        **{count: bytes([0xD4 + power]) for power, count in enumerate((1, 2, 4, 8, 16))},
        **{count: struct.pack(">BB", 0xC7, count) for count in (3, 12)},
        300: struct.pack(">BH", 0xC8, 300),
    }[size] + struct.pack("b", code)
    with pytest.raises(Damaged):
        decode(chunk_of(packed_with(name, raw + bytes(size))))


@pytest.mark.parametrize("code", [0, 5, 127])
def test_an_extension_type_is_named(code: int) -> None:
    with pytest.raises(Damaged, match=f"type {code}"):
        decode(chunk_of(msgpack.packb({"kind": msgpack.ExtType(code, b"x")})))


@each_field
def test_a_field_that_stands_twice_is_refused(name: str) -> None:
    packed = msgpack.packb(HEADER_FIELDS)
    again = msgpack.packb(name) + msgpack.packb(HEADER_FIELDS[name])
    with pytest.raises(Damaged, match="twice"):
        decode(chunk_of(bytes([packed[0] + 1]) + packed[1:] + again))


def test_keys_that_stand_twice_deeper_down_are_refused() -> None:
    for name in ("metrics", "metadata"):
        with pytest.raises(Damaged, match="twice"):
            decode(chunk_of(packed_with(name, b"\x82\xa1x\x01\xa1x\x02")))


@each_field
@pytest.mark.parametrize("depth", [20, 500, 950, 1015, 1023, 1024, 1025, 5000, 1_000_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1k", b"\xdd\x00\x00\x00\x01"], ids=["list", "map", "list32"])
def test_deep_nesting_is_refused_whatever_its_depth(name: str, depth: int, opening: bytes) -> None:
    depth = min(depth, 4_000_000 // len(opening))
    with pytest.raises(CodecError) as caught:
        decode(chunk_of(packed_with(name, opening * depth + b"\xc0")))
    assert len(str(caught.value)) < 500


#: Heads that claim far more than follows, after which nothing stands.
CLAIMS = {
    "list of 65,535": b"\xdc\xff\xff",
    "list of 65,536": b"\xdd\x00\x01\x00\x00",
    "list of 2**32": b"\xdd\xff\xff\xff\xff",
    "map of 65,535": b"\xde\xff\xff",
    "map of 4,096": b"\xde\x10\x00",
    "map of 2**32": b"\xdf\xff\xff\xff\xff",
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bin of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x05",
    "lists in lists": b"\xdd\x00\x01\x00\x00" * 1000,
    "lists as long as the frame, in lists": b"\xdc\x08\x00" * 1000,
    "maps in maps": b"\xde\x10\x00\xa1k" * 1000,
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("name", [None, "manifest", "metadata"])
def test_what_claims_to_be_huge_allocates_little(claim: str, name: str | None) -> None:
    chunk = chunk_of(CLAIMS[claim] if name is None else packed_with(name, CLAIMS[claim]))
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_header_that_claims_terabytes_allocates_nothing_and_is_refused_by_its_size() -> None:
    fields = HEADER_FIELDS | {"manifest": [["w", "float64", [2**40], 0]], "size_bytes": 2**43}
    chunk = chunk_of(msgpack.packb(fields))
    tracemalloc.start()
    try:
        header = decode(chunk)
        assert isinstance(header, Header)
        with pytest.raises(TooLarge, match=f"{2**43} bytes; at most max_model_bytes={2**34}"):
            check_size(header, 2**34)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_model_of_exactly_the_size_allowed_is_taken() -> None:
    header = header_of(MODEL)
    check_size(header, 200)
    with pytest.raises(TooLarge):
        check_size(header, 199)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 3])
def test_the_content_of_a_model_is_the_digest_of_its_buffer(size: int) -> None:
    model = Model.from_arrays([np.ones(size, np.uint8)])
    said: list[bytes] = []

    def asked() -> Iterator[None]:
        said.append((yield from digesting(model)))

    assert len(list(asked())) == math.ceil(size / CHUNK_BYTES)
    assert said == [xxhash.xxh3_128_digest(model.buffer.data)]


def test_an_update_is_told_from_another_one_of_the_same_task_by_what_its_header_says() -> None:
    header = header_of(MODEL)
    assert content_of(header) == content_of(header_of(MODEL))
    shorter = Model.from_arrays([np.arange(19, dtype=np.float32)], ["w"])
    others = [
        replace(header, model_version=4),
        replace(header, metrics={"loss": 1.5}),
        replace(header, metadata={"epochs": 9}),
        replace(header, content=bytes(16)),
        header_of(shorter),
    ]
    assert len({content_of(each) for each in (header, *others)}) == len(others) + 1


def test_the_largest_claim_that_a_manifest_may_make_is_a_size_like_any_other() -> None:
    with pytest.raises(TooLarge):
        check_size(Header("update", Manifest.lay_out([("w", "int8", (MAX_MODEL_BYTES,))]), 0), 2**34)


@pytest.mark.parametrize("chunk", [STREAM[0], STREAM[1], STREAM[-1]], ids=["header", "data", "end"])
@pytest.mark.parametrize("tail", [b"\x00", b"\xc0", b"\x80", b"\xc1", bytes(100)])
def test_bytes_after_the_msgpack_object_are_refused(chunk: bytes, tail: bytes) -> None:
    with pytest.raises(Damaged):
        decode(chunk_of(bytes(frame_of_chunk(chunk)) + tail))
    with pytest.raises(Damaged):
        decode(chunk + tail)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"\xc1", id="the byte msgpack never uses"),
        pytest.param(b"\x81\xa1\xff\x01", id="key that is not UTF-8"),
        pytest.param(b"\x81\xa4kind\xa1\xff", id="text that is not UTF-8"),
        pytest.param(b"\x81\x01\x01", id="integer key"),
        pytest.param(b"\x81\xc0\x01", id="nil key"),
        pytest.param(b"\x81\x91\x01\x01", id="list as key"),
        pytest.param(b"\x81\x80\x01", id="map as key"),
        pytest.param(b"\x81\xc4\x06digest\x01", id="digest as bytes key"),
        pytest.param(b"\x81\xc7\x0c\xff\xff\xff\xff\xff" + bytes(8), id="timestamp of too many nanoseconds"),
        pytest.param(b"\x80", id="empty map"),
    ],
)
def test_msgpack_that_is_wrong_or_odd_is_refused(packed: bytes) -> None:
    with pytest.raises(Damaged):
        decode(chunk_of(packed))


@pytest.mark.parametrize(
    ("packed", "error", "fact"),
    [
        (b"\x92", Damaged, "unsigned"),
        (b"\x92\xcf\x00", Damaged, "unsigned"),
        (b"\x92\xff\xc4\x01a", Damaged, "unsigned"),  # -1
        (b"\x92\xd3" + bytes(8) + b"\xc4\x01a", Damaged, "unsigned"),  # a signed 0
        (b"\x92\xca" + bytes(4) + b"\xc4\x01a", Damaged, "unsigned"),  # a float
        (b"\x92\xc3\xc4\x01a", Damaged, "unsigned"),  # True
        (b"\x92\x00", Damaged, "bin"),
        (b"\x92\x00\xa1a", Damaged, "bin"),  # text
        (b"\x92\x00\x91\x01", Damaged, "bin"),  # a list
        (b"\x92\x00\xc4", Truncated, "cut off"),
        (b"\x92\x00\xc6\x00\x00\x00", Truncated, "cut off"),
        (b"\x92\x00\xc6\xff\xff\xff\xff", Truncated, f"0 of {2**32 - 1} bytes"),
        (b"\x92\x00\xc4\x02a", Truncated, "1 of 2 bytes"),
        (b"\x92\x00\xc4\x01ab", Damaged, "1 bytes follow"),
        (b"\xdc\x00\x02\x00\xc4\x01a", Damaged, "list"),  # a pair, but longer than msgpack writes it
    ],
)
def test_data_that_is_not_one_offset_and_one_bin_is_refused(packed: bytes, error: type[CodecError], fact: str) -> None:
    with pytest.raises(error, match=fact) as caught:
        decode(chunk_of(packed))
    assert type(caught.value) is error


def test_an_empty_frame_is_damaged() -> None:
    for chunk in (b"", b"\x0a\x00"):
        with pytest.raises(Damaged):
            decode(chunk)


def test_a_frame_above_the_limit_is_neither_written_nor_read() -> None:
    names = [f"{index:02}" + "x" * 60_000 for index in range(69)]
    manifest = Manifest.lay_out([(name, "int8", (1,)) for name in names])
    room = MAX_FRAME_BYTES - len(frame_of_chunk(encode(Header("global", manifest, 0, federation_id="x" * 2**10))))
    largest = Header("global", manifest, 0, federation_id="x" * (2**10 + room))
    assert len(frame_of_chunk(encode(largest))) == MAX_FRAME_BYTES
    assert decode(encode(largest)) == largest
    with pytest.raises(TooLarge, match=f"{MAX_FRAME_BYTES + 1} bytes"):
        encode(replace(largest, task_id="y"))
    with pytest.raises(TooLarge, match=f"{MAX_FRAME_BYTES + 1} bytes"):
        decode(chunk_of(bytes(MAX_FRAME_BYTES + 1)))


# Publications


def test_readers_of_a_publication_share_the_same_bytes() -> None:
    publication = Publication(Model.from_arrays([np.arange(CHUNK_BYTES, dtype=np.uint16)], version=7))
    first, second = list(publication.chunks()), list(publication.chunks())
    assert len(first) == 2
    assert all(mine is theirs for (mine, _), (theirs, _) in zip(first, second, strict=True))


@given(st.lists(st.integers(0, 2), max_size=30))
def test_interleaved_readers_each_get_everything(turns: list[int]) -> None:
    model = Model.from_arrays([np.arange(100)], version=7)
    with mock.patch.object(frame_module, "CHUNK_BYTES", 150):
        publication = Publication(model)
        readers: list[Iterator[tuple[bytes, int]]] = [publication.chunks() for _ in range(3)]
        got: list[list[tuple[bytes, int]]] = [[], [], []]
        for turn in turns:
            got[turn].extend(itertools.islice(readers[turn], 1))
        for reader, chunks in zip(readers, got, strict=True):
            chunks.extend(reader)
    assert got[0] == got[1] == got[2]
    assembly = receive([chunk for chunk, _ in got[0]])
    assert_same(assembly.model, model)
    assert (assembly.header.kind, assembly.model.version) == ("global", 7)


def test_a_publication_can_forget_its_chunks_while_it_is_read() -> None:
    publication = Publication(Model.from_arrays([np.arange(2 * CHUNK_BYTES, dtype=np.uint16)], version=7))
    first, second = publication.chunks(), publication.chunks()
    before = [chunk for chunk, _ in itertools.islice(first, 2)]
    publication.forget_chunks()
    anew = [chunk for chunk, _ in second]
    after = [chunk for chunk, _ in first]
    assert before + after == anew
    assert before[1] is not anew[1]
    assert all(mine is theirs for mine, theirs in zip(after, anew[2:], strict=True))  # never two of one chunk are kept


def test_what_only_slow_readers_read_is_not_kept() -> None:
    publication, pace = Publication(Model.from_arrays([np.zeros(CHUNK_BYTES, np.int8)])), Pace()
    with mock.patch.object(publication_module, "encode", wraps=encode) as spy:
        for _ in publication.chunks(pace):
            pass
    encoded = [call.args[0] for call in spy.call_args_list]
    assert all(len(frame.payload) < CHUNK_BYTES for frame in encoded if isinstance(frame, Data))


def test_forgotten_chunks_are_freed() -> None:
    publication = Publication(Model.from_arrays([np.arange(2 * CHUNK_BYTES, dtype=np.uint8)]))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        deque(publication.chunks(), maxlen=0)
        assert tracemalloc.get_traced_memory()[0] - before > 2 * CHUNK_BYTES
        publication.forget_chunks()
        assert tracemalloc.get_traced_memory()[0] - before < CHUNK_BYTES / 2
    finally:
        tracemalloc.stop()


def test_a_publication_says_how_much_of_the_model_each_chunk_carries() -> None:
    publication = Publication(Model.from_arrays([np.zeros(CHUNK_BYTES + 9, np.int8)]))
    assert [size for _, size in publication.chunks()] == [CHUNK_BYTES, 9]


def test_a_publication_encodes_only_as_far_as_it_was_read() -> None:
    with mock.patch.object(publication_module, "encode", wraps=encode) as spy:
        reader = Publication(MODEL).chunks()
        assert spy.call_count == 0
        next(reader)
        assert spy.call_count == 1


def test_a_published_model_can_no_longer_be_changed() -> None:
    model = Model.from_arrays([np.zeros(3)])
    publication = Publication(model)
    assert publication.model is model
    with pytest.raises(ValueError, match="read-only"):
        model.buffer[:] = 1


#: What a header may not have: it is refused before anything is made of it, or after little.
COSTLY: dict[str, tuple[dict[str, object], str]] = {
    "numbers": ({"metadata": {str(key): [1] * 16_000 for key in range(250)}}, "more than 65536 bytes of 'metadata'"),
    "numbers in metrics": ({"metrics": [1] * 4_000_000}, "more than 65536 bytes of 'metrics'"),
    "small numbers": ({"metadata": {str(key): [1] * 9_000 for key in range(4)}}, "16384 values"),
    "a long list": ({"metadata": {"x": [1] * 20_000}}, "20000 exceeds"),
    "lists": ({"metadata": {"x": [[]] * 2_000}}, "more than 1024 lists and maps"),
    "maps": ({"metadata": {"x": [{}] * 2_000}}, "more than 1024 lists and maps"),
    "texts": ({"priority": [["ab"] * 16_000] * 80}, "more than 65536 bytes of 'priority'"),
    "a long text": ({"kind": "x" * 4_000_000}, "more than 65536 bytes of 'kind'"),
    "a text that is little too long": ({"task_id": "x" * 65_536}, "more than 65536 bytes of 'task_id'"),
    "a long name": ({"manifest": [["x" * 4_000_000, "int8", [1], 0]]}, "a text or bytes of more than 65536"),
    "keys": ({f"key {index}": None for index in range(200)}, "at most 64"),
    "a long key": ({"x" * 300: None}, "300 exceeds"),
}


@pytest.mark.parametrize("what", COSTLY)
def test_what_costs_much_is_refused_before_it_is_walked(what: str) -> None:
    fields, fact = COSTLY[what]
    chunk = chunk_of(msgpack.packb(HEADER_FIELDS | fields))
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=fact):
            decode(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_as_many_values_as_are_allowed_are_taken() -> None:
    metadata = {"x": [1] * (MAX_VALUES - 1)}
    header = decode(chunk_of(msgpack.packb(HEADER_FIELDS | {"metadata": metadata})))
    assert isinstance(header, Header)
    assert header.metadata == metadata


def test_a_value_under_a_key_that_is_not_known_is_not_made() -> None:
    packed = packed_with("later", b"")[1:] + msgpack.packb("later") + b"\x91" * 900 + b"\xc0"
    assert isinstance(decode(chunk_of(bytes([0x80 | len(HEADER_FIELDS) + 1]) + packed)), Header)


def test_too_much_metadata_is_refused_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.from_arrays([np.zeros(1)])
    header = Header("update", model.manifest, 1, metadata={"notes": "x" * 70_000})
    with pytest.raises(TooLarge, match="bytes of metrics and metadata; at most 65536"):
        encode(header)
    with monkeypatch.context() as sender:
        sender.setattr("metisfl_async.codec.frame.MAX_FACTS_BYTES", 2**20)
        chunk = encode(header)
    with pytest.raises(TooLarge, match="more than 65536 bytes of 'metadata'"):
        decode(chunk)
    both = {"metrics": {"x" * 40_000: 1.0}, "metadata": {"x": "x" * 40_000}}
    with pytest.raises(TooLarge, match="80019 bytes of metrics and metadata; at most 65536"):
        decode(chunk_of(msgpack.packb(HEADER_FIELDS | both)))


@pytest.mark.parametrize(("numbers", "steps"), [(4, 1), (4096, 2)])
def test_many_facts_are_read_in_a_step_of_their_own(numbers: int, steps: int) -> None:
    manifest = Manifest.lay_out([("w", "int8", (1,))])
    chunk = encode(Header("update", manifest, 1, metadata={"x": [*range(numbers)]}))
    known = decode(chunk)  # its manifest, for as long as it is there
    (frame,) = split(chunk)
    assert len(list(frame_module.decoding(frame))) + 1 == steps
    assert isinstance(known, Header)


def test_a_model_comes_in_no_more_frames_than_small_ones_need() -> None:
    model = Model.from_arrays([np.zeros(3000, np.uint8), np.zeros((), np.uint8)])
    most = most_frames(model.manifest)
    assert most == SPARE_FRAMES + 2 + 2
    assembly, buffer = Assembly(header_of(model), garbage(model.manifest.size_bytes)), model.buffer.data
    for offset in range(most):
        assembly.add(Data(offset, buffer[offset : offset + 1]))
    with pytest.raises(TooLarge, match=f"more than {most} data frames for {len(buffer)} bytes"):
        assembly.add(Data(most, buffer[most : most + 1]))


def test_what_is_not_trained_is_said_once_in_a_header_and_comes_back() -> None:
    model = Model.from_arrays([np.zeros(1), np.zeros(2), np.zeros(3)], untrained=["0", "2"])
    header = decode(encode(Header("global", model.manifest, 1)))
    again = decode(encode(Header("global", model.manifest, 2)))
    assert isinstance(header, Header)
    assert isinstance(again, Header)
    assert header.manifest is again.manifest
    assert header.manifest.untrained == (0, 2)
    plain = decode(encode(Header("update", model.manifest.unmarked, 1)))
    assert isinstance(plain, Header)
    assert plain.manifest.untrained == ()
    assert plain.manifest == header.manifest


@pytest.mark.parametrize("untrained", [7, "0", [-1], [True], [0.0], [2], [1, 0], [0, 0], {"0": 1}], ids=repr)
def test_what_is_not_trained_are_growing_numbers_of_tensors(untrained: object) -> None:
    with pytest.raises(Damaged, match="header: untrained"):
        decode(chunk_of(msgpack.packb(HEADER_FIELDS | {"untrained": untrained})))
