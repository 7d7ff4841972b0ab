from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules import fold, of, started

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, Sum
from metisfl_async.core.strategies.aggregation.arithmetic import LARGEST as LARGEST_VALUE
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.partial_sum import Contribution, PartialSum
from metisfl_async.core.strategies.aggregation.reproducible_sum import (
    LARGEST,
    LEAST,
    MOST_ADDED,
    WORDS,
    ReproducibleSum,
)
from metisfl_async.core.strategies.aggregation.resemblance import Portrait
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAvgM
from metisfl_async.core.strategies.aggregation.spreading import spreading

#: Powers of two far apart, so that words move up and are dropped; and values on either side of half a unit.
VALUES = st.builds(
    lambda sign, digits, power: sign * float(digits) * 2.0**power,
    st.sampled_from([-1.0, 1.0]),
    st.integers(0, 2**53 - 1) | st.sampled_from([1, 3, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**52 + 1]),
    st.integers(-300, 300) | st.sampled_from([-33, -34, -32, 0, 32, 33, 65, 66, 67]),
)
SEEN = Portrait(1.0, False, np.zeros(1), b"")
WEIGHTS = st.floats(2.0**-53, 2.0**53, allow_nan=False)


def wide(*values: float) -> Model:
    return Model.from_arrays([np.array(values)])


def total_of(models: Sequence[Model], weights: Sequence[float]) -> ReproducibleSum:
    total = ReproducibleSum(models[0].manifest)
    for model, weight in zip(models, weights, strict=True):
        total.add(model, weight)
    return total


def joined(groups: Sequence[ReproducibleSum]) -> ReproducibleSum:
    total = ReproducibleSum(groups[0].manifest)
    for group in groups:
        total.add_parts(group.parts(), group.weight)
    return total


@given(st.lists(st.tuples(st.lists(VALUES, min_size=3, max_size=3), WEIGHTS), min_size=1, max_size=8), st.randoms())
def test_any_order_and_any_grouping_gives_the_same_bits(
    updates: list[tuple[list[float], float]], chance: random.Random
) -> None:
    models = [Model.from_arrays([np.array(values)]) for values, _ in updates]
    weights = [weight for _, weight in updates]
    whole = total_of(models, weights)
    mean = whole.divided_by(whole.weight, 1)
    for _ in range(5):
        order = chance.sample(range(len(models)), len(models))
        cuts = sorted(chance.choices(range(len(order) + 1), k=2))
        groups = [order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]]
        sums = [total_of([models[i] for i in group], [weights[i] for i in group]) for group in groups if group]
        again = joined(sums)
        assert again.weight == whole.weight
        assert again.divided_by(again.weight, 1).buffer.tobytes() == mean.buffer.tobytes()


@given(st.lists(st.tuples(VALUES, WEIGHTS), min_size=1, max_size=8))
def test_it_is_as_near_as_it_says(updates: list[tuple[float, float]]) -> None:
    total = total_of([wide(value) for value, _ in updates], [weight for _, weight in updates])
    products = [Fraction(value * weight) for value, weight in updates]
    (got,) = total._value(0, slice(0, 1))
    exact, largest = sum(products, Fraction()), max(map(abs, products))
    allowed = abs(exact) * Fraction(2) ** -52 + len(products) * largest * Fraction(2) ** -66
    assert abs(Fraction(float(got)) - exact) <= allowed
    weights = sum((Fraction(weight) for _, weight in updates), Fraction())
    assert abs(Fraction(total.weight) - weights) <= weights * Fraction(2) ** -52


def test_what_is_small_beside_one_that_goes_again_is_kept() -> None:
    values = [1e16, 1.0, -1e16, 1.0]
    plain = Sum(wide(0.0).manifest)
    for value in values:
        plain.add(wide(value), 1.0)
    exact = total_of([wide(value) for value in values], [1.0] * 4)
    assert plain.divided_by(1.0, 1).arrays()[0].tolist() == [1.0]
    assert exact.divided_by(1.0, 1).arrays()[0].tolist() == [2.0]


def test_a_large_number_takes_nothing_from_its_neighbours() -> None:
    values = [-3.4e38, 1e-9 / 3, 0.1, -1e12, 1e-300, 0.0]
    for order in (1, -1):
        total = total_of([wide(*values), wide(*values[::-1])][::order], [1.0, 1e-9][::order])
        got = total.divided_by(1.0, 1).arrays()[0]
        np.testing.assert_allclose(got[:4], np.array(values)[:4] + 1e-9 * np.array(values[::-1])[:4], rtol=1e-15)
        assert got[4] == 1e-300 + 1e-9 * (1e-9 / 3)


def test_it_has_the_means_of_every_dtype() -> None:
    chance = np.random.default_rng(4)
    arrays: list[list[Array]] = [
        [
            chance.standard_normal((3, 5)).astype(np.float32),
            chance.integers(-(2**40), 2**40, 3),
            np.array(chance.standard_normal() > 0),
            np.zeros((0, 4), np.float16),
            chance.standard_normal(2).astype(np.float16),
        ]
        for _ in range(3)
    ]
    models, weights = [Model.from_arrays(each) for each in arrays], [3.0, 1.0, 7.0]
    plain, exact = started(FedAvg(), models[0]), started(FedStride(2, reproducible=True), models[0])
    for rule in (plain, exact):
        for model, weight in zip(models, weights, strict=True):
            fold(rule, model, weight)
    assert exact.aggregate(1).buffer.tobytes() == plain.aggregate(1).buffer.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_blocks_make_no_difference(dtype: str) -> None:
    chance = np.random.default_rng(5)
    size = 3 * BLOCK + 17
    scales = np.repeat([1e-20, 1.0, 1e20, 1e-3], BLOCK)[:size]
    models = [Model.from_arrays([(chance.standard_normal(size) * scales).astype(dtype)]) for _ in range(5)]
    models.append(Model.from_arrays([np.where(np.arange(size) == BLOCK + 5, 1e30, 0).astype(dtype)]))
    weights = [0.1, 0.3, 1 / 3, 2.0, 1e-9, 0.7]
    alone = total_of(models, weights)

    def spread(work: object, count: int) -> None:
        for start in range(0, count, 2 * BLOCK):
            work(slice(start, min(start + 2 * BLOCK, count)))  # type: ignore[operator]

    with spreading(spread):
        backwards = total_of(models[::-1], weights[::-1])
        halves = joined([total_of(models[:1], weights[:1]), total_of(models[1:], weights[1:])])
    expected = alone.divided_by(alone.weight, 1).buffer.tobytes()
    for other in (backwards, halves):
        assert other.divided_by(other.weight, 1).buffer.tobytes() == expected
    exact = np.zeros(size, np.longdouble)
    for model, weight in zip(models, weights, strict=True):
        exact += np.longdouble(model.arrays()[0]) * np.longdouble(weight)
    got = np.frombuffer(expected, dtype)[:size] * np.longdouble(sum(weights))
    size_of_terms = sum(np.abs(np.longdouble(model.arrays()[0])) for model in models)
    assert (np.abs(got - exact) <= size_of_terms * (1e-6 if dtype == "float32" else 1e-14)).all()


def test_it_begins_anew_when_it_is_cleared() -> None:
    total = total_of([wide(1e300)], [5.0])
    total.clear()
    total.add(wide(0.1), 3.0)
    assert (total.weight, total.parts()[-1][-1]) == (3.0, 1.0)
    assert total.divided_by(3.0, 1).arrays()[0].tolist() == [(3 * 0.1) / 3]


@pytest.mark.parametrize("value", [LARGEST_VALUE, -LARGEST_VALUE, 1e-299, 5e-324, 0.0])
def test_the_ends_of_float64_are_no_trouble(value: float) -> None:
    total = total_of([wide(value)], [2.0**53])
    assert total.problem_of(total.parts(), 1) is None
    (got,) = total.divided_by(total.weight, 1).arrays()[0].tolist()
    assert got == pytest.approx(value, rel=1e-15, abs=1e-300)


def test_it_travels_in_one_buffer() -> None:
    models = [Model.from_arrays([np.full((2, 2), 1.5, np.float32), np.arange(3)]), of(0.0)]
    total = total_of(models[:1], [2.0])
    manifest = ReproducibleSum.packed_manifest(total.manifest)
    assert [spec.shape for spec in manifest.tensors] == [(part.size,) for part in total.parts()]
    packed = total.packed(manifest, 7)
    other = ReproducibleSum(total.manifest)
    other.unpack(packed)
    assert (packed.version, other.weight, other.problem_of(other.parts(), 1)) == (7, 2.0, None)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(total.parts(), other.parts(), strict=True))
    assert total.packed(manifest, 8, again=packed.buffer).buffer is packed.buffer


def test_parts_that_are_none_are_refused_by_name() -> None:
    total = total_of([of(1.0, 2.0)], [2.0])
    assert total.problem_of(total.parts(), 1) is None
    assert total.problem_of(total.parts()[:1], 1) == (
        "the sum has parts of shapes [(8,)]; those of the global model have [(8,), (5,)]"
    )

    def problem(part: int, place: int, value: float) -> str | None:
        parts = [each.copy() for each in total.parts()]
        parts[part][place] = value
        return total.problem_of(parts, 9)

    unsound = "the sum holds numbers that 1 updates cannot add up to"
    units = [0.5, 2.0 ** (33 * (LEAST - 1)), 2.0 ** (33 * (LARGEST + 1)), 0.0, -(2.0**33), 3.0 * 2.0**33]
    for unit in units:
        assert problem(0, 1, unit) == unsound
    unit = float(total.parts()[0][0])
    for word in range(WORDS):
        of_word = unit * 2.0 ** (-33 * word)
        for wrong in (-1e300, of_word / 2, of_word * (2.0**32 + 1)):
            assert problem(0, 2 * (1 + word), wrong) == unsound
        assert problem(0, 2 * (1 + word), -of_word * 2.0**32) is None
    assert problem(0, 2, np.nan) == "the sum holds a value that is not finite"
    for added in (0.0, 1.5, -1.0, 10.0):
        wanted = f"the sum is of {added:g} updates; allowed: a whole number from 1 to 9"
        assert problem(1, 1 + WORDS, added) == wanted
    assert "from 1 to 1,048,576" in str(total.problem_of([total.parts()[0], np.full(5, 2.0**21)], 2**30))


def test_it_cannot_be_scaled_and_weighs_nothing_before_something_is_added() -> None:
    total = ReproducibleSum(of(1.0).manifest)
    assert total.weight == 0.0
    total.add(of(1.0), 3.0)
    assert total.weight == 3.0
    total.clear()
    assert total.weight == 0.0
    with pytest.raises(TypeError, match="fixed"):
        total.scale(2.0)


def test_a_sum_whose_weight_is_another_one_than_its_contributors_is_refused() -> None:
    rule = started(FedAvg(reproducible=True), of(0.0))
    total = total_of([of(4.0)], [2.0])
    shares = [Contribution(LearnerId("a"), TaskId("1"), weight, SEEN) for weight in (2.0, 2.5)]
    right, wrong = (PartialSum(total.manifest, 0, total.parts(), (each,), ReproducibleSum) for each in shares)
    with pytest.raises(ConfigError, match=r"the weight in a sum.* 2\.0; allowed: that of its contributors, 2\.5"):
        rule.fold_sum(wrong)
    rule.fold_sum(right)
    assert rule.aggregate(1).arrays()[0].tolist() == [4.0]


def test_more_updates_than_words_can_hold_are_refused() -> None:
    rule = started(FedAvg(reproducible=True), of(0.0))
    total = total_of([of(4.0)], [2.0])
    total.parts()[-1][-1] = MOST_ADDED
    fold(rule, of(1.0), 1.0)
    share = Contribution(LearnerId("a"), TaskId("1"), 2.0, SEEN)
    with pytest.raises(ConfigError, match="False where more than 1,048,576 updates make a model"):
        rule.fold_sum(PartialSum(total.manifest, 0, total.parts(), (share,), ReproducibleSum))
    assert rule.aggregate(1).arrays()[0].tolist() == [1.0]


def test_rules_say_which_sums_they_take() -> None:
    assert (FedAvg().sum_form, FedAvg(reproducible=True).sum_form) == (Sum, ReproducibleSum)
    assert (FedAvgM(FedAvg(reproducible=True)).sum_form, FedRec().sum_form) == (ReproducibleSum, Sum)
    with pytest.raises(ConfigError, match=r"reproducible.*'yes'; allowed: True or False"):
        FedAvg(reproducible="yes")  # type: ignore[arg-type]


def test_relays_cannot_claim_all_the_updates_that_a_model_can_have() -> None:
    ControllerConfig(aggregation_rule=FedAvg(reproducible=True), max_relayed_learners=2**16)
    with pytest.raises(ConfigError, match=r"max_relayed_learners is 65537; allowed: at most 65,536 with reproducible"):
        ControllerConfig(aggregation_rule=FedAvgM(FedAvg(reproducible=True)), max_relayed_learners=2**16 + 1)
    ControllerConfig(max_relayed_learners=2**16 + 1)
