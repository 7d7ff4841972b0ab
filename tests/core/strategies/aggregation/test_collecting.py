"""What all rules share that look at all updates at once."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules import A, B, C, fold, of, started

from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.bulyan import Bulyan
from metisfl_async.core.strategies.aggregation.centered_clipping import CenteredClipping
from metisfl_async.core.strategies.aggregation.collecting import MOST_SWAPPED, CollectingRule, in_order, middle
from metisfl_async.core.strategies.aggregation.geometric_median import GeometricMedian
from metisfl_async.core.strategies.aggregation.krum import Krum, MultiKrum
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.rule import made
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean

RULES: list[Callable[[], CollectingRule]] = [
    Median,
    TrimmedMean,
    Krum,
    MultiKrum,
    GeometricMedian,
    lambda: CenteredClipping(1.0),
    Bulyan,
]
each_rule = pytest.mark.parametrize("new", RULES, ids=lambda new: type(new()).__name__)
LEARNERS = [LearnerId(f"site-{number:02}") for number in range(20)]


def fill(rule: CollectingRule, *values: float) -> None:
    """Fold updates of as many learners."""
    for learner, value in zip(LEARNERS, values, strict=False):
        fold(rule, of(value, -value), 1.0, learner)


@each_rule
def test_too_few_learners_make_no_model_and_more_may_come(new: Callable[[], CollectingRule]) -> None:
    rule = started(new(), of(0.0, 0.0))
    assert rule.is_heavy
    needed = rule.min_updates
    name = type(rule).__name__
    with pytest.raises(NoModel, match=f"{name} needs updates of {needed} learners, and has none") as error:
        made(rule, 1)
    assert error.value.keeps_updates
    fill(rule, *[1.0] * (needed - 1))
    with pytest.raises(NoModel, match=rf"and has {needed - 1} \(site-00, site-01"):
        made(rule, 1)
    fold(rule, of(1.0, -1.0), 1.0, LEARNERS[needed])
    np.testing.assert_allclose(
        made(rule, 1).arrays()[0], [1.0, -1.0] if name != "CenteredClipping" else [0.5**0.5, -(0.5**0.5)]
    )
    with pytest.raises(NoModel, match="and has none"):
        made(rule, 2)


@each_rule
def test_a_learner_counts_once_with_its_latest_update_and_whatever_it_claims(new: Callable[[], CollectingRule]) -> None:
    rule, again = started(new(), of(0.0, 0.0)), started(new(), of(0.0, 0.0))
    values = [0.1 * number for number in range(rule.min_updates)]
    for _ in range(3):
        fold(rule, of(50.0, 50.0), 1e9, LEARNERS[0])
    fill(rule, *values)
    fill(again, *values)
    np.testing.assert_array_equal(made(rule, 1).buffer, made(again, 1).buffer)


@each_rule
@given(order=st.permutations(range(7)))
def test_the_order_of_arrival_changes_nothing(new: Callable[[], CollectingRule], order: list[int]) -> None:
    rule, again = started(new(), of(0.0, 0.0)), started(new(), of(0.0, 0.0))
    values = [0.3, -0.2, 0.7, 1.1, 0.25, 0.31, -4.0]
    fill(rule, *values)
    for index in order:
        fold(again, of(values[index], -values[index]), 1.0, LEARNERS[index])
    np.testing.assert_array_equal(made(rule, 1).buffer, made(again, 1).buffer)


@each_rule
def test_integers_and_booleans_are_their_median_and_padding_is_zero(new: Callable[[], CollectingRule]) -> None:
    def model(number: int, flag: bool) -> Model:
        arrays: list[Array] = [
            np.array([1.0], np.float32),
            np.array([number, 2**40], np.int64),
            np.array([flag]),
            np.array([2.0, 3.0]),
            np.array([0.5], np.float16),
            np.array([0.5], ml_dtypes.bfloat16),
        ]
        return Model.from_arrays(arrays)

    rule = started(new(), model(0, False))
    odd = [2, 2, 2, 3, 9, 9, 2**40]
    for learner, number in zip(LEARNERS, odd, strict=False):
        fold(rule, model(number, number < 4), 1.0, learner)
    latest = made(rule, 1)
    floats, numbers, flags, doubles, half, brain = latest.arrays()
    if new is not TrimmedMean:
        np.testing.assert_array_equal(numbers, [3, 2**40])
    assert flags.all()
    assert floats == 1.0
    np.testing.assert_array_equal(doubles, [2.0, 3.0])
    assert float(half[0]) == float(brain[0]) == 0.5
    assert not latest.buffer[latest.manifest.padding].any()


@each_rule
def test_a_discard_forgets_the_updates_and_a_model_goes_on_from_the_one_before(
    new: Callable[[], CollectingRule],
) -> None:
    rule = started(new(), of(0.0, 0.0))
    fill(rule, *[9.0] * 7)
    rule.discard()
    fill(rule, *[0.1] * 7)
    first = made(rule, 1)
    fill(rule, *[0.2] * 7)
    np.testing.assert_allclose(made(rule, 2).arrays()[0], [0.2, -0.2], rtol=1e-6)
    rule.take_back(first)
    fill(rule, *[0.3] * 7)
    np.testing.assert_allclose(made(rule, 2).arrays()[0], [0.3, -0.3], rtol=1e-6)


def test_updates_are_kept_up_to_a_limit_and_a_newer_one_of_a_learner_needs_no_room() -> None:
    rule = started(Median(max_bytes=3 * 8), of(0.0, 0.0))
    fill(rule, 1.0, 2.0, 3.0)
    with pytest.raises(
        ConfigError, match="max_bytes is 24; allowed: at least 32, to keep one more update of 8 bytes: M"
    ):
        fold(rule, of(4.0, 4.0), 1.0, C)
    fill(rule, 5.0, 6.0, 7.0)
    assert made(rule, 1).arrays()[0].tolist() == [6.0, -6.0]
    fill(rule, 1.0, 2.0, 3.0)  # the room is free again
    assert made(rule, 2).arrays()[0].tolist() == [2.0, -2.0]


def test_what_is_folded_is_copied() -> None:
    rule = started(Median(), of(0.0))
    reused = of(0.0)
    for learner, value in ((A, 1.0), (B, 2.0), (C, 4.0)):
        reused.arrays()[0][...] = value
        fold(rule, reused, 1.0, learner)
    assert made(rule, 1).arrays()[0] == 2.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10, MOST_SWAPPED, MOST_SWAPPED + 1, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_columns_are_put_in_order(count: int, dtype: type) -> None:
    values: Array = np.random.default_rng(count).integers(0, 50, (count, 33)).astype(dtype)
    np.testing.assert_array_equal(in_order(values.copy()), np.sort(values, axis=0))
    np.testing.assert_array_equal(middle(values.copy()), np.median(values, axis=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Median(max_bytes=0), "max_bytes is 0; allowed: an integer >= 1"),
        (lambda: TrimmedMean(0), "f is 0; allowed: an integer >= 1"),
        (lambda: Krum(-1), "f is -1; allowed: an integer >= 1"),
        (lambda: MultiKrum(1, 0), "m is 0; allowed: an integer >= 1"),
        (lambda: Bulyan(True), "f is True; allowed: an integer >= 1"),
        (lambda: GeometricMedian(smoothing=0.0), "smoothing is 0.0; allowed: a finite number > 0"),
        (lambda: GeometricMedian(iterations=0), "iterations is 0; allowed: an integer >= 1"),
        (lambda: CenteredClipping(0.0), "tau is 0.0; allowed: a finite number > 0"),
        (lambda: CenteredClipping(1.0, iterations=0), "iterations is 0; allowed: an integer >= 1"),
    ],
)
def test_wrong_parameters_are_named(make: Callable[[], CollectingRule], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
