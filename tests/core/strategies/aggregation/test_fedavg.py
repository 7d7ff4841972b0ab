from __future__ import annotations

import math
import sys
import tracemalloc
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from rules import fold, started

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import ALIGNMENT, DTYPES, Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, LARGEST, Sum, unfit
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.rule import Update
from metisfl_async.core.strategies.scaling import MAX_WEIGHT

EPSILON = {"float16": 2**-10, "float32": 2**-23, "float64": 2**-52, "bfloat16": 2**-7}
FLOATS = list(EPSILON)
INTEGERS = [name for name in DTYPES if DTYPES[name].kind in "iu"]
SHAPES: list[tuple[int, ...]] = [(), (0,), (0, 3), (1,), (2, 3, 5), (BLOCK + 7,)]


def mean(updates: Sequence[Sequence[Array]], weights: Sequence[float] | None = None) -> list[Array]:
    """Fold updates in order; the mean of each tensor."""
    models = [Model.from_arrays(update) for update in updates]
    rule = started(FedAvg(), models[0])
    for model, weight in zip(models, weights or [1.0] * len(models), strict=True):
        fold(rule, model.freeze(), weight)
    return rule.aggregate(1).arrays()


def formula(arrays: Sequence[Array], weights: Sequence[float]) -> NDArray[np.float64]:
    """``sum(s_k * w_k) / sum(s_k)`` in NumPy's float64."""
    stacked = np.stack([array.astype(np.float64) for array in arrays])
    return np.asarray(np.average(stacked, axis=0, weights=weights))


def some(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    """Plausible weights."""
    random = np.random.default_rng(seed)
    match DTYPES[dtype].kind:
        case "b":
            return np.asarray(random.random(shape) < 0.5)
        case "u":
            return np.asarray(random.integers(0, 200, shape)).astype(dtype)
        case "i":
            return np.asarray(random.integers(-100, 100, shape)).astype(dtype)
        case _:
            return np.asarray(random.standard_normal(shape)).astype(DTYPES[dtype])


# --- the mean ------------------------------------------------------------------------------------------------------


def test_updates_weigh_as_much_as_mcmahan_says() -> None:
    updates = [[np.full((2, 2), value, np.float32)] for value in (6, 12, 18)]
    (averaged,) = mean(updates, [1, 2, 3])
    assert averaged.tolist() == [[14.0, 14.0], [14.0, 14.0]]  # (1 * 6 + 2 * 12 + 3 * 18) / 6


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [60_000.0, 7.0, 0.125]])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mean_of_floats_is_that_of_the_formula(dtype: str, weights: list[float]) -> None:
    updates = [[some(dtype, shape, seed) for shape in SHAPES] for seed in range(3)]
    for averaged, *arrays in zip(mean(updates, weights), *updates, strict=True):
        expected = formula(arrays, weights)
        assert averaged.dtype == DTYPES[dtype]
        assert averaged.shape == arrays[0].shape
        if dtype == "float64":
            np.testing.assert_allclose(averaged, expected, rtol=1e-13, atol=1e-15)
        else:  # a unit in the last place, where another order of summing falls on the other side of a tie
            exact = expected.astype(DTYPES[dtype]).astype(np.float64)
            ulp = np.abs(exact) * EPSILON[dtype]
            assert (np.abs(averaged.astype(np.float64) - exact) <= ulp).all()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [64.0, 7.0, 0.125]])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_mean_of_integers_is_that_of_the_formula_rounded_to_the_nearest(dtype: str, weights: list[float]) -> None:
    updates = [[some(dtype, shape, seed) for shape in SHAPES] for seed in range(3)]
    for averaged, *arrays in zip(mean(updates, weights), *updates, strict=True):
        assert averaged.dtype == DTYPES[dtype]
        assert averaged.tolist() == np.rint(formula(arrays, weights)).astype(int).tolist()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_an_integer_mean_between_two_goes_to_the_even_one(dtype: str) -> None:
    (averaged,) = mean([[np.array([1, 2, 3, 0], dtype)], [np.array([2, 3, 4, 1], dtype)]])
    assert averaged.tolist() == [2, 2, 4, 0]


@pytest.mark.parametrize("dtype", [name for name in INTEGERS if name.startswith("int")])
def test_a_negative_integer_mean_between_two_goes_to_the_even_one(dtype: str) -> None:
    (averaged,) = mean([[np.array([-1, -2, -3, 0], dtype)], [np.array([-2, -3, -4, -1], dtype)]])
    assert averaged.tolist() == [-2, -2, -4, 0]


@pytest.mark.parametrize("weight", [1.0, 3.0, 1 / 3, MAX_WEIGHT])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_at_their_limits_do_not_wrap_around(dtype: str, weight: float) -> None:
    limits = np.iinfo(dtype)
    update = [np.array([limits.min, limits.max], dtype)]
    (averaged,) = mean([update, update], [weight, weight])
    least, most = averaged.tolist()
    assert least == limits.min
    assert 0 <= limits.max - most <= limits.max >> 52  # what float64 can hold


def test_a_boolean_mean_is_the_majority_by_weight_and_true_for_halves() -> None:
    updates = [[np.array([True, True, False, False])], [np.array([True, False, True, False])]]
    assert mean(updates)[0].tolist() == [True, True, True, False]
    assert mean(updates, [1, 2])[0].tolist() == [True, False, True, False]
    updates = [[some("bool", (BLOCK + 7,), seed)] for seed in range(3)]
    expected = formula([update[0] for update in updates], [1, 2, 4]) >= 0.5
    assert (mean(updates, [1, 2, 4])[0] == expected).all()


@pytest.mark.parametrize("weight", [1.0, 3.0, 0.1, 60_000.0, MAX_WEIGHT])
@pytest.mark.parametrize("dtype", [*(name for name in DTYPES if name != "float64"), "float64"])
def test_a_single_learner_gets_its_weights_back(dtype: str, weight: float) -> None:
    arrays = [some(dtype, shape, 0) for shape in SHAPES]
    for averaged, array in zip(mean([arrays], [weight]), arrays, strict=True):
        if dtype == "float64" and weight not in (1.0, MAX_WEIGHT):
            np.testing.assert_array_max_ulp(averaged, array, maxulp=1)  # multiplied and divided again
        else:
            assert averaged.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_and_smallest_floats_come_back_as_they_are(dtype: str) -> None:
    info = ml_dtypes.finfo(DTYPES[dtype])  # type: ignore[no-untyped-call]
    most = LARGEST if dtype == "float64" else float(info.max)
    update = [np.array([most, -most, float(info.smallest_subnormal), -0.0]).astype(DTYPES[dtype])]
    (averaged,) = mean([update, update], [1.0, 1.0])
    assert averaged.tolist() == update[0].tolist()


def test_tensors_of_many_dtypes_keep_their_places() -> None:
    updates = [[some(dtype, shape, seed) for dtype in DTYPES for shape in ((3,), ())] for seed in range(2)]
    for averaged, first, second in zip(mean(updates), *updates, strict=True):
        (alone,) = mean([[first], [second]])
        assert averaged.dtype == alone.dtype
        assert averaged.tolist() == alone.tolist()


def test_a_model_without_elements_has_a_mean() -> None:
    assert mean([[np.empty((0, 3), np.float32)]] * 2)[0].shape == (0, 3)
    assert mean([[]] * 2) == []


# --- the order of arrival ------------------------------------------------------------------------------------------

weight = st.one_of(st.integers(1, 100_000).map(float), st.floats(1e-3, MAX_WEIGHT))


@st.composite
def arrivals(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[list[tuple[Array, float]], list[int]]:
    """Updates with their weights, and another order of them."""
    array = npst.arrays(np.float32, (4,), elements=values)
    updates = draw(st.lists(st.tuples(array, weight), min_size=2, max_size=12))
    return updates, draw(st.permutations(range(len(updates))))


def both(updates: list[tuple[Array, float]], order: list[int]) -> tuple[Array, Array]:
    arrays, weights = [[array] for array, _ in updates], [weight for _, weight in updates]
    return mean(arrays, weights)[0], mean([arrays[index] for index in order], [weights[index] for index in order])[0]


@given(arrivals(st.floats(2**-10, 2**10, width=32)))
def test_the_order_of_arrival_does_not_change_the_mean_beyond_its_last_bit(
    arrival: tuple[list[tuple[Array, float]], list[int]],
) -> None:
    np.testing.assert_array_max_ulp(*both(*arrival), maxulp=1)


@given(arrivals(st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_where_weights_cancel_out_the_order_does_not_matter_beyond_the_last_bit_of_the_largest(
    arrival: tuple[list[tuple[Array, float]], list[int]],
) -> None:
    first, second = (averaged.astype(np.float64) for averaged in both(*arrival))
    largest = np.max([np.abs(array.astype(np.float64)) for array, _ in arrival[0]], axis=0)
    assert (np.abs(first - second) <= np.maximum(largest * 2**-23, 2**-149)).all()


# --- what is not finite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, BLOCK + 6])
def test_a_value_that_is_not_finite_is_found_with_its_tensors_name(dtype: str, value: float, place: int) -> None:
    arrays = [some(dtype, (BLOCK + 7,), 0), np.array(3), some(dtype, (BLOCK + 7,), 1), some(dtype, (), 2)]
    names = ["dense/kernel", "steps", "dense/bias", "scale"]
    assert unfit(Model.from_arrays(arrays, names)) is None
    arrays[2][place] = value
    assert unfit(Model.from_arrays(arrays, names)) == (
        "tensor 'dense/bias' holds a value that is not finite (NaN, infinite, or beyond 1e+288)"
    )
    arrays[0][place] = value
    assert str(unfit(Model.from_arrays(arrays, names))).startswith("tensor 'dense/kernel' holds")


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_scalar_that_is_not_finite_is_found(dtype: str) -> None:
    arrays = [np.zeros(3, bool), np.array(math.nan).astype(DTYPES[dtype])]
    assert str(unfit(Model.from_arrays(arrays, ["mask", "scale"]))).startswith("tensor 'scale' holds")


@pytest.mark.parametrize("value", [math.nextafter(LARGEST, math.inf), 1e290, -1e290, sys.float_info.max])
def test_a_float64_whose_weighted_sum_could_overflow_is_found(value: float) -> None:
    assert unfit(Model.from_arrays([np.array([1.0, LARGEST, -LARGEST])])) is None
    assert str(unfit(Model.from_arrays([np.array([1.0, value])], ["kernel"]))).startswith("tensor 'kernel' holds")


def test_ten_thousand_updates_of_the_largest_values_and_weights_do_not_overflow() -> None:
    update = Model.from_arrays([np.array([LARGEST, -LARGEST])])
    rule = started(FedAvg(), update)
    for _ in range(10_000):
        fold(rule, update, MAX_WEIGHT)
    np.testing.assert_allclose(rule.aggregate(1).arrays()[0], [LARGEST, -LARGEST], rtol=1e-12)


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name not in FLOATS])
def test_integers_and_booleans_are_always_finite(dtype: str) -> None:
    update = Model.from_arrays([np.zeros(70, dtype)])
    update.buffer[:] = 1 if dtype == "bool" else 255
    assert unfit(update) is None


def test_a_sum_of_several_blocks_is_numpys_to_the_bit() -> None:
    updates = [some("float32", (9 * BLOCK + 7,), seed) for seed in range(3)]
    total = Sum(Model.from_arrays(updates[:1]).manifest)
    for number, array in enumerate(updates):
        total.add(Model.from_arrays([array]), 3.7 + number)
    expected = np.zeros(9 * BLOCK + 7)
    for number, array in enumerate(updates):
        expected += (3.7 + number) * array.astype(np.float64)
    assert total.parts()[0].tobytes() == expected.tobytes()


# --- memory and books ----------------------------------------------------------------------------------------------


def test_fifty_updates_take_no_more_memory_than_one() -> None:
    update = Model.from_arrays([np.ones(1_000_000, np.float32)])
    peaks = []
    for count in (1, 50):
        rule = started(FedAvg(), update)
        tracemalloc.start()
        for _ in range(count):
            fold(rule, update, 3.0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    one, fifty = peaks
    assert one <= 8_000_000 + 4 * 8 * BLOCK + 100_000  # a float64 sum, a block to multiply in, and NumPy's own buffers
    assert fifty <= one + 1_000


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_making_the_mean_takes_no_more_memory_than_the_new_model(dtype: str) -> None:
    update = Model.from_arrays([np.ones(1_000_000, dtype)])
    rule = started(FedAvg(), update)
    fold(rule, update, 3.0)
    tracemalloc.start()
    rule.aggregate(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= update.manifest.size_bytes + 4 * 8 * BLOCK


def test_folding_does_not_change_the_update_and_the_mean_is_a_model_of_its_own() -> None:
    update = Model.from_arrays([some(dtype, (5,), 0) for dtype in DTYPES])
    before = update.buffer.tobytes()
    rule = started(FedAvg(), update)
    fold(rule, update.freeze(), 3.0)
    averaged = rule.aggregate(7)
    assert update.buffer.tobytes() == before
    assert averaged.version == 7
    assert averaged.manifest == update.manifest
    assert averaged.buffer.ctypes.data % ALIGNMENT == 0
    assert averaged.buffer.flags.writeable
    assert not np.shares_memory(averaged.buffer, update.buffer)


def test_the_padding_of_the_mean_is_zero_whatever_was_in_the_updates() -> None:
    update = Model.from_arrays([some(dtype, shape, 0) for dtype in DTYPES for shape in ((3,), (), (65,))])
    assert len(update.manifest.padding) > 1000
    update.buffer[update.manifest.padding] = 0xFF  # NaN, for floats
    assert unfit(update) is None
    rule = started(FedAvg(), update)
    fold(rule, update, 1.0)
    assert not rule.aggregate(1).buffer[update.manifest.padding].any()


def test_a_mean_starts_anew_after_the_one_before_and_after_a_discard() -> None:
    first, second = (Model.from_arrays([np.array([value], np.float32)]) for value in (1.0, 5.0))
    rule = started(FedAvg(), first)
    fold(rule, first, 2.0)
    assert rule.aggregate(1).arrays()[0] == 1.0
    fold(rule, first, 9.0)
    rule.discard()
    fold(rule, second, 1.0)
    assert rule.aggregate(2).arrays()[0] == 5.0


def test_the_sum_itself_can_be_had_before_it_is_divided() -> None:
    updates = [Model.from_arrays([np.full(3, value, np.float32)]) for value in (2.0, 5.0)]
    rule = FedAvg()
    rule.start(updates[0])
    for learner, update, weight in zip("ab", updates, (1.0, 4.0), strict=True):
        rule.fold(Update(LearnerId(learner), update, weight))
    assert [part.tolist() for part in rule.summed().parts()] == [[22.0, 22.0, 22.0]]
