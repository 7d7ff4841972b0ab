from __future__ import annotations

import itertools
import tracemalloc
import weakref
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.codec import manifest as manifest_module
from metisfl_async.codec.manifest import (
    MAX_DIMENSIONS,
    MAX_EXTENTS,
    MAX_MODEL_BYTES,
    MAX_TENSORS,
    STEP,
    packed_manifest,
)
from metisfl_async.core.errors import CodecError, Damaged, TooLarge, UnknownDtype
from metisfl_async.core.model import DTYPES, Manifest, Model


def read(packed: bytes) -> tuple[int, Manifest]:
    """Read a manifest; in how many steps, and what it is."""
    steps = manifest_module.manifest_from_wire(memoryview(packed))
    for number in itertools.count(1):
        try:
            next(steps)
        except StopIteration as end:
            return number, end.value
    raise AssertionError


def manifest_from_wire(value: object) -> Manifest:
    return read(msgpack.packb(value))[1]


layouts = st.lists(
    st.tuples(
        st.text(max_size=10),
        st.sampled_from(sorted(DTYPES)),
        st.lists(st.integers(0, 2**10), max_size=4).map(tuple),
    ),
    max_size=6,
    unique_by=lambda tensor: tensor[0],
)


@given(layouts)
def test_a_manifest_comes_back_equal_through_msgpack(layout: list[tuple[str, str, tuple[int, ...]]]) -> None:
    manifest = Manifest.lay_out(layout)
    wire = msgpack.unpackb(packed_manifest(manifest))
    assert manifest_from_wire(wire) == manifest


def test_what_was_received_before_is_the_same_object_while_somebody_has_it() -> None:
    wire = [["w", "float32", [2, 3], 0]]
    first = manifest_from_wire(wire)
    assert manifest_from_wire([["w", "float32", [2, 3], 0]]) is first
    assert manifest_from_wire([["w", "float32", [3, 2], 0]]) is not first
    gone = weakref.ref(first)
    del first
    assert gone() is None


def test_another_form_of_the_same_msgpack_is_the_same_manifest() -> None:
    first = manifest_from_wire([["w", "float32", [2, 3], 0]])
    longer = b"\xdd\0\0\0\x01" + b"\x94\xd9\x01w\xa7float32\x92\xcd\0\x02\x03\xcf" + bytes(8)
    assert read(longer)[1] is first


def test_the_wire_form_is_name_dtype_shape_offset() -> None:
    manifest = Manifest.lay_out([("w", "float32", (2, 3)), ("b", "bfloat16", ())])
    assert msgpack.unpackb(packed_manifest(manifest)) == [["w", "float32", [2, 3], 0], ["b", "bfloat16", [], 64]]


#: A second tensor after ["first", "int8", [3], 0], the class of the error, and what its text must say.
LIES: dict[str, tuple[Any, type[CodecError], str]] = {
    "overlap": (["w", "int8", [1], 0], Damaged, "offset 0 instead of 64"),
    "overlap by a byte": (["w", "int8", [1], 2], Damaged, "offset 2 instead of 64"),
    "unaligned": (["w", "int8", [1], 3], Damaged, "offset 3 instead of 64"),
    "gap": (["w", "int8", [1], 128], Damaged, "offset 128 instead of 64"),
    "far away": (["w", "int8", [1], 2**64 - 64], Damaged, f"offset {2**64 - 64} instead of 64"),
    "negative offset": (["w", "int8", [1], -64], Damaged, "offset -64"),
    "bool offset": (["w", "int8", [1], True], Damaged, "offset True"),
    "float offset": (["w", "int8", [1], 64.0], Damaged, "offset 64.0"),
    "no offset": (["w", "int8", [1], None], Damaged, "offset None"),
    "product of 2**64": (["w", "float32", [2**32, 2**32], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "2**63 elements": (["w", "int8", [2**63], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "2**64 - 1 elements": (["w", "float64", [2**64 - 1], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "product that wraps to 0": (["w", "int8", [2**62, 4], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "product that wraps to 1": (["w", "int8", [2**32 + 1, 2**32 - 1, 2**32 + 1], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "a byte too many": (["w", "int8", [MAX_MODEL_BYTES - 63], 64], TooLarge, f"byte {MAX_MODEL_BYTES + 1}"),
    "empty, 2**63 wide": (["w", "float32", [0, 2**63], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "empty, overflows": (["w", "float32", [2**32, 2**32, 0], 64], TooLarge, str(MAX_MODEL_BYTES)),
    "negative extent": (["w", "int8", [-1], 64], Damaged, "shape [-1]"),
    "two negative extents": (["w", "int8", [-2, -2], 64], Damaged, "shape [-2, -2]"),
    "bool extent": (["w", "int8", [True], 64], Damaged, "shape [True]"),
    "float extent": (["w", "int8", [1.0], 64], Damaged, "shape [1.0]"),
    "text extent": (["w", "int8", ["1"], 64], Damaged, "shape ['1']"),
    "nested shape": (["w", "int8", [[1]], 64], Damaged, "shape [[1]]"),
    "shape is a number": (["w", "int8", 1, 64], Damaged, "shape 1"),
    "shape is text": (["w", "int8", "", 64], Damaged, "shape ''"),
    "no shape": (["w", "int8", None, 64], Damaged, "shape None"),
    "too many dimensions": (["w", "int8", [1] * 65, 64], TooLarge, "65 dimensions; at most 32"),
    "object": (["w", "O", [1], 64], UnknownDtype, "'O'"),
    "object, spelled out": (["w", "object", [1], 64], UnknownDtype, "'object'"),
    "void of 2 GiB": (["w", "V2147483647", [1], 64], UnknownDtype, "'V2147483647'"),
    "text dtype": (["w", "U4", [1], 64], UnknownDtype, "'U4'"),
    "structured, as text": (["w", "f4,f4", [1], 64], UnknownDtype, "'f4,f4'"),
    "structured, as list": (["w", [["x", "f4"]], [1], 64], UnknownDtype, "'f4'"),
    "complex": (["w", "complex64", [1], 64], UnknownDtype, "'complex64'"),
    "code instead of name": (["w", "<f4", [1], 64], UnknownDtype, "'<f4'"),
    "big-endian": (["w", ">f4", [1], 64], UnknownDtype, "'>f4'"),
    "dtype in bytes": (["w", b"int8", [1], 64], UnknownDtype, "b'int8'"),
    "no dtype": (["w", None, [1], 64], UnknownDtype, "None"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_tensor_is_refused_by_index_and_name(lie: str) -> None:
    entry, error, fact = LIES[lie]
    with pytest.raises(error) as caught:
        manifest_from_wire([["first", "int8", [3], 0], entry])
    assert type(caught.value) is error
    assert caught.value.where == "manifest, tensor 1 ('w')"
    assert fact in caught.value.what


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 1, "w", {}, [], ["w"], ["w", "int8", [1]], ["w", "int8", [1], 64, 0]),
        *([1, "int8", [1], 64], [b"w", "int8", [1], 64], [None, "int8", [1], 64], [["w"], "int8", [1], 64]),
    ],
)
def test_a_tensor_without_a_readable_name_is_refused_by_index(entry: object) -> None:
    with pytest.raises(Damaged) as caught:
        manifest_from_wire([["first", "int8", [3], 0], entry])
    assert caught.value.where == "manifest, tensor 1"


@pytest.mark.parametrize("entry", [{}, ["w", {"names": ["x"]}, [1], 64], ["w", "int8", {}, 0]])
def test_a_map_in_place_of_anything_is_refused(entry: object) -> None:
    with pytest.raises(Damaged):
        manifest_from_wire([entry])


@pytest.mark.parametrize("value", [None, 1, "w", b"", {}, True])
def test_a_manifest_that_is_no_list_is_refused(value: object) -> None:
    with pytest.raises(Damaged) as caught:
        manifest_from_wire(value)
    assert type(value).__name__ in caught.value.what


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(Damaged, match=r"tensor 2 \('w'\)"):
        manifest_from_wire([["w", "int8", [1], 0], ["b", "int8", [1], 64], ["w", "int8", [1], 128]])


def test_as_many_tensors_as_the_limit_are_taken_and_one_more_is_not() -> None:
    entries: list[object] = [[str(index), "int8", [0], 0] for index in range(MAX_TENSORS + 1)]
    assert len(manifest_from_wire(entries[:-1]).tensors) == MAX_TENSORS
    with pytest.raises(TooLarge, match=f"{MAX_TENSORS + 1} tensors; at most {MAX_TENSORS}"):
        manifest_from_wire(entries)


def test_as_many_dimensions_and_bytes_as_the_limit_are_taken() -> None:
    assert manifest_from_wire([["w", "int8", [1] * MAX_DIMENSIONS, 0]]).size_bytes == 1
    assert manifest_from_wire([["w", "float64", [MAX_MODEL_BYTES // 8], 0]]).size_bytes == MAX_MODEL_BYTES


def test_as_many_extents_as_the_limit_are_taken_and_what_follows_is_not_read() -> None:
    most = MAX_EXTENTS // MAX_DIMENSIONS
    entries: list[object] = [[str(index), "int8", [0] * MAX_DIMENSIONS, 0] for index in range(most)]
    assert len(manifest_from_wire(entries).tensors) == most
    more = [*entries, ["more", "int8", [0], 0], "what follows"]
    with pytest.raises(TooLarge, match=f"tensor {most} .'more'.: more than {MAX_EXTENTS} extents"):
        manifest_from_wire(more)


def test_many_tensors_are_read_in_steps_and_those_that_are_known_at_one_go() -> None:
    packed = msgpack.packb([[str(index), "int8", [0], 0] for index in range(3 * STEP)])
    steps, manifest = read(packed)
    assert steps == 5  # the first finds that it is not known
    assert read(packed) == (1, manifest)


def test_what_another_has_read_meanwhile_is_not_read_again() -> None:
    packed = msgpack.packb([[str(index), "int16", [0], 0] for index in range(3 * STEP)])
    waits = manifest_module.manifest_from_wire(memoryview(packed))
    next(waits)
    _, manifest = read(packed)
    with pytest.raises(StopIteration) as end:
        next(waits)
    assert end.value.value is manifest


def test_a_manifest_that_is_wrong_at_once_is_not_read_on() -> None:
    packed = msgpack.packb([["w", "O", [1], 0], *(["w" * 50_000, "int8", [1], 0] for _ in range(80))])
    tracemalloc.start()
    try:
        with pytest.raises(UnknownDtype):
            read(packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(packed) > 2**21
    assert peak < 2**19


def test_terabytes_claimed_allocate_nothing() -> None:
    tracemalloc.start()
    try:
        manifest = manifest_from_wire([["w", "float64", [2**20, 2**20], 0], ["b", "float64", [2**40], 2**43]])
        for entry, error, _ in LIES.values():
            with pytest.raises(error):
                manifest_from_wire([["first", "int8", [3], 0], entry])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert manifest.size_bytes == 2**44  # 16 TiB
    assert peak < 2**20


def deep(levels: int) -> object:
    value: object = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(deep(400), id="entry"),
        pytest.param([deep(400), "int8", [1], 0], id="name"),
        pytest.param(["w", deep(400), [1], 0], id="dtype"),
        pytest.param(["w", "int8", deep(400), 0], id="shape"),
        pytest.param(["w", "int8", [1], deep(400)], id="offset"),
        pytest.param(["w" * 10**6, "O", [1], 0], id="long name"),
        pytest.param(["w", "O" * 10**6, [1], 0], id="long dtype"),
        pytest.param(["w", "int8", [0] * 10**6, 0], id="long shape"),
        pytest.param(["w", "int8", [2**64 - 1] * 64, 0], id="large shape"),
    ],
)
def test_a_huge_or_deep_lie_is_refused_in_few_words(entry: object) -> None:
    with pytest.raises(CodecError) as caught:
        manifest_from_wire([entry])
    assert len(str(caught.value)) < 2000


wire_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(),
    lambda values: st.lists(values, max_size=4),
    max_leaves=8,
)
near_entries = st.tuples(
    st.text(max_size=2) | wire_values,
    st.sampled_from(sorted(DTYPES)) | wire_values,
    st.lists(st.sampled_from([0, 1, 2, 2**31, 2**32, 2**63, 2**64 - 1]), max_size=66) | wire_values,
    st.sampled_from([0, 64, 128]) | wire_values,
).map(list)


@given(wire_values | st.lists(near_entries | wire_values, max_size=3))
def test_any_value_is_a_manifest_whose_tensors_can_be_viewed_or_an_error_of_ours(value: object) -> None:
    try:
        manifest = manifest_from_wire(value)
    except CodecError:
        return
    assert manifest == Manifest.lay_out([(spec.name, spec.dtype, spec.shape) for spec in manifest.tensors])
    if manifest.size_bytes < 2**20:
        arrays = Model(manifest, np.zeros(manifest.size_bytes, np.uint8)).arrays()
        assert [array.shape for array in arrays] == [spec.shape for spec in manifest.tensors]
