from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import (
    ALIGNMENT,
    DTYPES,
    Array,
    Bytes,
    Manifest,
    Model,
    Run,
    TensorSpec,
    align,
    allocate,
    is_alone,
)

#: Every kind of bits: zeros, ones, quiet and signalling NaNs with payloads, denormals.
BIT_PATTERNS = bytes(range(256)) + bytes.fromhex("0000807f0100807f0100c07fffffffff010000000100f07f0000000000000080") * 4


def patterned(dtype: str) -> Array:
    """An array of shape (2, 3, n) with many bit patterns, legal ones for bool."""
    raw = np.frombuffer(BIT_PATTERNS, np.uint8)
    data = raw & 1 if dtype == "bool" else raw
    return data.view(DTYPES[dtype]).reshape(2, 3, -1)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda array: array,
    "Fortran": np.asfortranarray,
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "negative strides": lambda array: np.flip(np.flip(array).copy()),
    "transposed": lambda array: array.T.copy().T,
    "big-endian": lambda array: array.byteswap().view(array.dtype.newbyteorder(">")),
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "subclass": lambda array: array.view(np.recarray),
}


@pytest.mark.parametrize(("offset", "aligned"), [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128), (2**48 - 1, 2**48)])
def test_align_rounds_up_to_a_multiple(offset: int, aligned: int) -> None:
    assert align(offset) == aligned


@pytest.mark.parametrize("size_bytes", [0, 1, 63, 64, 65, 1000])
def test_a_buffer_has_the_size_asked_for_and_starts_aligned(size_bytes: int) -> None:
    for _ in range(10):
        buffer = allocate(size_bytes)
        assert buffer.shape == (size_bytes,)
        assert buffer.dtype == np.uint8
        assert buffer.ctypes.data % ALIGNMENT == 0 or not size_bytes


def test_the_dtypes_are_little_endian_and_go_by_their_numpy_names() -> None:
    assert len(DTYPES) == 13
    for name, dtype in DTYPES.items():
        assert dtype.name == name
        assert dtype.str[0] in "<|V"


@pytest.mark.parametrize(
    ("dtype", "shape", "count", "size_bytes"),
    [
        ("float32", (), 1, 4),
        ("float64", (2, 3), 6, 48),
        ("bfloat16", (5,), 5, 10),
        ("int8", (3, 0, 2), 0, 0),
        ("float32", (2**32, 2**32), 2**64, 2**66),
    ],
)
def test_a_spec_counts_without_overflow(dtype: str, shape: tuple[int, ...], count: int, size_bytes: int) -> None:
    spec = TensorSpec("w", dtype, shape, 0)
    assert (spec.count, spec.size_bytes) == (count, size_bytes)


def test_tensors_are_laid_out_one_after_another_at_aligned_offsets() -> None:
    manifest = Manifest.lay_out(
        [("a", "float32", (17,)), ("b", "int8", ()), ("c", "int8", (0,)), ("d", "bool", (64,)), ("e", "bool", (1,))]
    )
    assert [spec.offset for spec in manifest.tensors] == [0, 128, 192, 192, 256]
    assert manifest.size_bytes == 257


def test_a_manifest_without_tensors_takes_no_bytes() -> None:
    manifest = Manifest.lay_out([])
    assert manifest == Manifest(())
    assert manifest.size_bytes == 0
    assert manifest.runs == ()
    assert manifest.padding.shape == (0,)


def test_runs_join_neighbours_of_one_dtype() -> None:
    manifest = Manifest.lay_out(
        [("a", "float32", (3,)), ("b", "float32", ()), ("c", "int64", (2,)), ("d", "float32", (1,))]
    )
    assert manifest.runs == (Run("float32", 0, 68), Run("int64", 128, 144), Run("float32", 192, 196))


def test_a_run_views_its_part_of_a_buffer() -> None:
    model = Model.from_arrays([np.array([1, 2], np.int16), np.array([3], np.int16), np.array([4.0])])
    first, second = (run.of(model.buffer) for run in model.manifest.runs)
    assert first.dtype == np.int16
    assert first.tolist() == [1, 2, *[0] * 30, 3]
    assert second.tolist() == [4.0]
    assert np.shares_memory(first, model.buffer)


layouts = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=3).map(tuple)), max_size=6
)


@given(layouts)
def test_tensors_and_padding_fill_the_buffer_exactly_once(layout: list[tuple[str, tuple[int, ...]]]) -> None:
    manifest = Manifest.lay_out([(str(index), dtype, shape) for index, (dtype, shape) in enumerate(layout)])
    covered = np.zeros(manifest.size_bytes, np.int64)
    for spec in manifest.tensors:
        assert spec.offset % ALIGNMENT == 0
        covered[spec.offset : spec.offset + spec.size_bytes] += 1
    np.add.at(covered, manifest.padding, 1)
    assert (covered == 1).all()


@given(layouts)
def test_every_tensor_lies_in_one_run_of_its_dtype(layout: list[tuple[str, tuple[int, ...]]]) -> None:
    manifest = Manifest.lay_out([(str(index), dtype, shape) for index, (dtype, shape) in enumerate(layout)])
    buffer = allocate(manifest.size_bytes)
    for spec in manifest.tensors:
        stop = spec.offset + spec.size_bytes
        assert any(run.dtype == spec.dtype and run.start <= spec.offset and stop <= run.stop for run in manifest.runs)
    for run in manifest.runs:
        assert run.of(buffer).nbytes == run.stop - run.start


def test_equal_manifests_have_no_difference() -> None:
    tensors = [("w", "float32", (2, 3)), ("b", "float32", (3,))]
    assert Manifest.lay_out(tensors) == Manifest.lay_out(tensors)
    manifest = Manifest.lay_out(tensors)
    assert manifest.difference(Manifest.lay_out(tensors)) is None
    assert manifest.difference(manifest) is None


@pytest.mark.parametrize(
    ("others", "facts"),
    [
        ([("w", "float32", (2, 3))], ["1 tensors", "2"]),
        ([("w", "float32", (3, 2)), ("b", "float32", (3,))], ["'w'", "float32[3, 2]", "float32[2, 3]"]),
        ([("w", "float32", (2, 3)), ("b", "int8", (3,))], ["'b'", "int8[3]", "float32[3]"]),
        ([("w", "float32", (2, 3)), ("bias", "float32", (3,))], ["'b'", "'bias'"]),
    ],
)
def test_the_first_difference_between_manifests_is_named(
    others: list[tuple[str, str, tuple[int, ...]]], facts: list[str]
) -> None:
    mine, theirs = Manifest.lay_out([("w", "float32", (2, 3)), ("b", "float32", (3,))]), Manifest.lay_out(others)
    difference = mine.difference(theirs)
    assert mine != theirs
    assert difference is not None
    assert all(fact in difference for fact in facts)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_in_every_memory_layout_keeps_its_bits(dtype: str, layout: str) -> None:
    if dtype == "bfloat16" and layout == "big-endian":
        layout = "C"  # ml_dtypes has no big-endian form
    plain = patterned(dtype)
    given_array = LAYOUTS[layout](plain)
    expected = np.broadcast_to(plain[:1], plain.shape) if layout == "broadcast" else plain
    (taken,) = Model.from_arrays([given_array]).arrays()
    assert taken.dtype == DTYPES[dtype]
    assert taken.shape == plain.shape
    assert taken.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_0d_arrays_scalars_and_empty_arrays_keep_dtype_shape_and_bits(dtype: str) -> None:
    last = patterned(dtype)[-1, -1, -1]  # all ones, a NaN
    arrays: list[Any] = [last, np.array(last), np.empty(0, DTYPES[dtype]), np.empty((2, 0, 3), DTYPES[dtype])]
    taken = Model.from_arrays(arrays).arrays()
    assert [array.shape for array in taken] == [(), (), (0,), (2, 0, 3)]
    assert {array.dtype for array in taken} == {DTYPES[dtype]}
    assert taken[0].tobytes() == taken[1].tobytes() == last.tobytes()


def test_a_model_without_tensors_is_a_model() -> None:
    model = Model.from_arrays([])
    assert model.buffer.shape == (0,)
    assert model.arrays() == model.copies() == []


def test_padding_is_zero_whatever_the_memory_held_before() -> None:
    arrays = [np.full(shape, -1, np.int8) for shape in ((3,), (), (0,), (65,), (1, 1))]
    for _ in range(20):
        model = Model.from_arrays(arrays)
        assert model.manifest.padding.size > 100
        assert not model.buffer[model.manifest.padding].any()
        model.buffer[:] = 0xFF  # leave dirt for the next one


def test_tensors_are_named_by_position_unless_named() -> None:
    arrays = [np.zeros(1), np.zeros(2)]
    assert [spec.name for spec in Model.from_arrays(arrays).manifest.tensors] == ["0", "1"]
    assert [spec.name for spec in Model.from_arrays(arrays, ["w", "b"]).manifest.tensors] == ["w", "b"]


def test_a_model_has_version_0_unless_told() -> None:
    assert Model.from_arrays([]).version == 0
    assert Model.from_arrays([], version=7).version == 7


@pytest.mark.parametrize("names", [[], ["w"], ["w", "w"], ["w", "b", "c"]])
def test_names_that_do_not_fit_the_arrays_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Model.from_arrays([np.zeros(1), np.zeros(2)], names)
    assert (caught.value.field, caught.value.value) == ("names", names)


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ([1.0], "list"),
        (1.0, "float"),
        (None, "NoneType"),
        (np.array([None]), "object"),
        (np.zeros(1, np.complex64), "complex64"),
        (np.complex128(1), "complex128"),
        (np.array(["a"]), "<U1"),
        (np.array([b"a"]), "|S1"),
        (np.zeros(1, [("x", "f4")]), "[('x', '<f4')]"),
        (np.array(["2024-01-01"], "M8[D]"), "datetime64[D]"),
        (np.zeros(1, np.longdouble), str(np.dtype(np.longdouble))),
        (np.zeros(1, ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
def test_what_is_not_carried_is_refused_by_the_name_of_its_tensor(item: Any, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Model.from_arrays([np.zeros(1), item], ["w", "bias"])
    assert caught.value.field == "tensor 'bias'"
    assert what in str(caught.value.value)
    assert "bfloat16" in caught.value.allowed


def test_a_model_shares_nothing_with_the_arrays_it_was_made_from() -> None:
    array = np.zeros(3)
    model = Model.from_arrays([array])
    array[:] = 1
    assert model.arrays()[0].tolist() == [0, 0, 0]


def test_a_buffer_is_used_again_where_it_could_have_been_allocated() -> None:
    buffer = allocate(200)
    assert allocate(200, buffer) is buffer
    for size, unfit in ((199, buffer), (200, buffer[:136]), (192, buffer[8:])):
        assert not np.shares_memory(made := allocate(size, unfit), buffer)
        assert len(made) == size
    buffer.flags.writeable = False
    assert allocate(200, buffer) is not buffer


@pytest.mark.parametrize(
    ("arrays", "fits"),
    [
        ([np.zeros((2, 3), np.float32), np.float64(1)], True),
        ([np.zeros((3, 2), np.float32).T, np.zeros(())], True),
        ([np.zeros((2, 3), np.float64), np.zeros(())], False),
        ([np.zeros((2, 3), ">f4"), np.zeros(())], False),
        ([np.zeros((3, 2), np.float32), np.zeros(())], False),
        ([np.zeros((2, 3), np.float32)], False),
        ([np.zeros((2, 3), np.float32), np.zeros(()), np.zeros(())], False),
    ],
)
def test_arrays_fit_a_manifest_of_their_dtypes_and_shapes(arrays: list[Array], fits: bool) -> None:
    manifest = Manifest.lay_out([("w", "float32", (2, 3)), ("b", "float64", ())])
    assert manifest.fits(arrays) is fits


def test_a_manifest_travels_to_another_process_without_what_it_has_found_out() -> None:
    manifest = Manifest.lay_out([("w", "float32", (2, 3)), ("b", "float64", ())])
    packed = pickle.dumps(manifest)
    assert (len(manifest.places), len(manifest.padding), isinstance(hash(manifest), int)) == (2, 40, True)
    assert pickle.dumps(manifest) == packed
    assert pickle.loads(packed) == manifest


def test_a_manifest_is_filled_with_arrays_that_fit() -> None:
    manifest = Manifest.lay_out([("w", "float32", (2, 3)), ("b", "float64", ())])
    arrays: list[Any] = [np.arange(6, dtype=np.float32).reshape(3, 2).T, np.float64(7)]
    model = Model.filled(manifest, arrays, version=4)
    assert (model.manifest is manifest, model.version) == (True, 4)
    same = Model.from_arrays(arrays, ["w", "b"])
    assert (model.manifest == same.manifest, hash(model.manifest)) == (True, hash(same.manifest))
    assert model.buffer.tobytes() == same.buffer.tobytes()


def test_arrays_are_views_of_the_buffer() -> None:
    model = Model.from_arrays([np.zeros(3), np.zeros((), np.int8)])
    for array in model.arrays():
        assert np.shares_memory(array, model.buffer)
        array[...] = 1
    assert [array.tolist() for array in model.arrays()] == [[1, 1, 1], 1]


def test_copies_are_writable_and_the_callers_own_even_when_the_model_is_frozen() -> None:
    model = Model.from_arrays([np.zeros(3)]).freeze()
    (copy,) = model.copies()
    copy[:] = 1
    assert not np.shares_memory(copy, model.buffer)
    assert model.arrays()[0].tolist() == [0, 0, 0]


def test_a_frozen_model_cannot_be_written_to() -> None:
    model = Model.from_arrays([np.zeros(3)])
    assert model.freeze() is model
    with pytest.raises(ValueError, match="read-only"):
        model.buffer[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        model.arrays()[0][0] = 1
    with pytest.raises(TypeError, match="read-only"):
        model.buffer.data[0] = 1


def test_a_model_that_was_made_is_writable_until_it_is_frozen() -> None:
    model = Model.from_arrays([np.zeros(3)])
    assert not model.is_frozen
    assert model.freeze().is_frozen


@pytest.mark.parametrize(
    "view_of",
    [
        lambda buffer: buffer[:1],
        lambda buffer: buffer[:0],
        lambda buffer: buffer[:64].view(np.float32)[3:].reshape(1, -1),
        lambda buffer: memoryview(buffer[2:]),
        lambda buffer: buffer.base,
    ],
)
def test_a_buffer_is_alone_but_for_what_views_it(view_of: Callable[[Bytes], object]) -> None:
    buffer = allocate(100)
    assert is_alone(buffer)
    view = view_of(buffer)
    assert not is_alone(buffer)
    del view
    assert is_alone(buffer)


def test_of_a_buffer_that_has_no_owner_nothing_is_known() -> None:
    assert not is_alone(np.zeros(100, np.uint8))


def test_a_model_consists_of_its_own_arrays_and_of_no_others() -> None:
    model = Model.from_arrays([np.zeros((2, 3), np.float32), np.zeros(0), np.array(1)])
    arrays = model.arrays()
    assert model.consists_of(arrays)
    assert not model.consists_of([array.copy() for array in arrays])
    assert not model.consists_of([arrays[0].T.reshape(2, 3), *arrays[1:]])
    assert not model.consists_of([arrays[0][::-1], *arrays[1:]])
