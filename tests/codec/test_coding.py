"""Values in fewer bytes: each coding against a few lines of NumPy that say the same without blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from coded_values import as_bf16, as_int8, as_top_k
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metisfl_async.codec.coding import MOST_INDEXED, SCALED, Coding, TopK, Values, coding_of
from metisfl_async.core.codecs import is_update_codec, share_of
from metisfl_async.core.model import DTYPES, Array
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK

NAMES = ("bf16", "int8", "topk:0.01", "topk:0.5")
COUNTS = (0, 1, 7, SCALED, SCALED + 1, BLOCK + 3)
floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
some_values = arrays(np.float32, st.integers(0, 3 * SCALED), elements=floats)


def coding(name: str) -> Coding:
    found = coding_of(name)
    assert found is not None
    return found


def encoded(coding: Coding, values: Values) -> list[Array]:
    parts = [np.empty(count, DTYPES[dtype]) for dtype, count in coding.parts(len(values))]
    coding.encode(values, parts)
    return parts


def decoded(coding: Coding, parts: list[Array], count: int) -> Values:
    starts = range(0, count, BLOCK)
    blocks = [coding.decode(parts, slice(start, min(start + BLOCK, count))) for start in starts]
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def drawn(count: int) -> Values:
    return np.random.default_rng(count).normal(size=count).astype(np.float32)


@pytest.mark.parametrize("count", COUNTS)
def test_bf16_rounds_to_the_nearest(count: int) -> None:
    values = drawn(count)
    parts = encoded(coding("bf16"), values)
    assert [(part.dtype.name, len(part)) for part in parts] == [("bfloat16", count)]
    assert decoded(coding("bf16"), parts, count).tolist() == as_bf16(values).tolist()


def test_bf16_makes_no_value_infinite() -> None:
    largest = float(np.finfo(np.float32).max)
    values = np.array([largest, -largest, 1.0], np.float32)
    back = decoded(coding("bf16"), encoded(coding("bf16"), values), 3)
    most = (2 - 2.0**-7) * 2.0**127
    assert back.tolist() == [most, -most, 1.0]


@pytest.mark.parametrize("count", COUNTS)
def test_int8_gives_a_thousand_neighbours_one_scale(count: int) -> None:
    values = drawn(count)
    values[:SCALED] *= 1000
    parts = encoded(coding("int8"), values)
    assert [(part.dtype.name, len(part)) for part in parts] == [("int8", count), ("float32", math.ceil(count / SCALED))]
    assert decoded(coding("int8"), parts, count).tolist() == as_int8(values).tolist()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("count", COUNTS)
def test_top_k_keeps_the_largest(count: int, share: float) -> None:
    values = drawn(count)
    parts = encoded(TopK(share), values)
    most = math.ceil(share * count)
    assert [(part.dtype.name, len(part)) for part in parts] == [("uint32", most), ("float32", most)]
    assert TopK(share).check(parts, count) is None
    assert decoded(TopK(share), parts, count).tolist() == as_top_k(values, share).tolist()


def test_top_k_takes_the_first_of_those_that_are_equal() -> None:
    values = np.array([1, -1, 2, 1, 0, -2], np.float32)
    places, kept = encoded(TopK(0.5), values)
    assert places.tolist() == [0, 2, 5]
    assert kept.tolist() == [1, 2, -2]


@given(some_values, st.sampled_from(NAMES))
def test_what_comes_back_is_near(values: Values, name: str) -> None:
    chosen = coding(name)
    back = decoded(chosen, encoded(chosen, values), len(values))
    assert back.shape == values.shape
    assert back.dtype == np.float32
    lost = np.abs(values.astype(np.float64) - back)
    if name == "bf16":
        assert (lost <= np.abs(values) * 2.0**-8 + 1e-38).all()
    elif name == "int8":
        most = [np.abs(values[start : start + SCALED]).max() for start in range(0, len(values), SCALED)]
        assert (lost <= np.repeat(np.array(most, np.float64) / 127 * 0.501 + 1e-43, SCALED)[: len(values)]).all()
    else:
        kept = back != 0
        assert (lost[kept] == 0).all()
        assert not kept.any() or (np.abs(values[kept]).min() >= lost).all()


@given(some_values, st.sampled_from(NAMES))
def test_what_was_coded_is_coded_alike_again(values: Values, name: str) -> None:
    chosen = coding(name)
    back = decoded(chosen, encoded(chosen, values), len(values))
    again = decoded(chosen, encoded(chosen, back), len(values))
    if name == "int8":  # its scales may be rounded once more
        np.testing.assert_allclose(again, back, rtol=1e-5, atol=1e-40)
    else:
        assert again.tolist() == back.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_does_not_look_finite(name: str, wrong: float) -> None:
    values = drawn(BLOCK + 200)
    values[[3, BLOCK + 100]] = wrong
    back = decoded(coding(name), encoded(coding(name), values), len(values))
    assert not np.isfinite(back).all()


def test_more_that_is_not_a_number_than_top_k_takes() -> None:
    places, kept = encoded(TopK(0.1), np.full(100, math.nan, np.float32))
    assert places.tolist() == list(range(10))
    assert np.isnan(kept).all()


@pytest.mark.parametrize("places", [[1, 1], [2, 1], [0, 4], [0, 2**32 - 1]])
def test_places_of_top_k_grow_and_are_inside(places: list[int]) -> None:
    parts: list[Array] = [np.array(places, np.uint32), np.ones(2, np.float32)]
    assert TopK(0.5).check(parts, 4) == "its places do not grow, or are beyond its 4 values"


def test_which_tensors_are_coded() -> None:
    def coded(name: str) -> list[str]:
        return [dtype for dtype in DTYPES if coding(name).codes(dtype, 10)]

    assert coded("bf16") == ["float32", "float64"]
    assert coded("int8") == coded("topk:0.01") == ["float16", "float32", "float64", "bfloat16"]
    assert coding("topk:0.01").codes("float32", MOST_INDEXED)
    assert not coding("topk:0.01").codes("float32", MOST_INDEXED + 1)


@pytest.mark.parametrize(
    "name", ["raw", "", "BF16", "topk", "topk:1", "topk:0.0", "topk:.1", "topk:1e-3", "topk:0.1\n"]
)
def test_other_names_are_no_codings(name: str) -> None:
    assert coding_of(name) is None
    assert is_update_codec(name) == (name == "raw")


def test_shares_are_read_as_written() -> None:
    assert share_of("topk:0.000001") == 1e-6
    assert all(map(is_update_codec, NAMES))
    assert not is_update_codec(0.01)
