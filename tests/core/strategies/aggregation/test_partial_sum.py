from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from rules import fold, of, started

from metisfl_async import ConfigError
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import CompensatedSum, Sum
from metisfl_async.core.strategies.aggregation.partial_sum import Contribution, PartialSum
from metisfl_async.core.strategies.aggregation.resemblance import Portrait
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.strategies import FedAdam, FedAvg, FedAvgM, FedRec, FedStride, Krum, NormBound, Update

SEEN = Portrait(1.0, False, np.zeros(1), b"")


def summed(models: Sequence[Model], weights: Sequence[float]) -> PartialSum:
    """Fold updates as a worker does."""
    total = Sum(models[0].manifest)
    for model, weight in zip(models, weights, strict=True):
        total.add(model, weight)
    shares = [
        Contribution(LearnerId(f"learner-{index}"), TaskId(f"task-{index}"), weight, SEEN)
        for index, weight in enumerate(weights)
    ]
    return PartialSum(models[0].manifest, 0, total.parts(), tuple(shares))


def flat(models: Sequence[Model], weights: Sequence[float]) -> Model:
    rule = started(FedAvg(), models[0])
    for model, weight in zip(models, weights, strict=True):
        fold(rule, model, weight)
    return rule.aggregate(1)


def grouped(models: Sequence[Model], weights: Sequence[float], groups: Sequence[Sequence[int]]) -> Model:
    rule = started(FedAvg(), models[0])
    for group in groups:
        rule.fold_sum(summed([models[index] for index in group], [weights[index] for index in group]))
    return rule.aggregate(1)


def updates(size: int, count: int, dtype: str = "float32") -> tuple[list[Model], list[float]]:
    """Make plausible updates of one model: weights of a few per cent, which training has changed a little."""
    random = np.random.default_rng(size)
    base = random.standard_normal(size) * 0.05
    trained: list[list[Array]] = [[(base + random.standard_normal(size) * 0.01).astype(dtype)] for _ in range(count)]
    return [Model.from_arrays(arrays) for arrays in trained], [float(random.integers(20, 2000)) for _ in range(count)]


def groupings(count: int, how_many: int) -> list[list[list[int]]]:
    """Cut so many learners, in any order, into groups of any sizes."""
    random = np.random.default_rng(how_many)
    cut: list[list[list[int]]] = []
    for _ in range(how_many):
        order = random.permutation(count)
        places = np.sort(random.choice(np.arange(1, count), random.integers(0, count - 1), replace=False))
        cut.append([[int(index) for index in group] for group in np.split(order, places)])
    return cut


def test_a_sum_of_sums_is_the_mean() -> None:
    models, weights = [of(1.0, 10.0), of(2.0, 20.0), of(6.0, 60.0)], [1.0, 2.0, 1.0]
    model = grouped(models, weights, [[0, 1], [2]])
    np.testing.assert_array_equal(model.arrays()[0], np.array([2.75, 27.5], np.float32))
    assert model.version == 1


def test_sums_and_single_updates_make_one_mean() -> None:
    rule = started(FedStride(2), of(0.0))
    rule.fold_sum(summed([of(1.0), of(2.0)], [1.0, 1.0]))
    fold(rule, of(6.0), 1.0)
    assert rule.aggregate(1).arrays()[0] == 3.0


def test_however_learners_are_grouped_a_float32_mean_has_the_same_bits() -> None:
    models, weights = updates(20_000, 20)
    expected = flat(models, weights).buffer
    different = [
        int((grouped(models, weights, groups).buffer.view(np.uint32) != expected.view(np.uint32)).sum())
        for groups in groupings(20, 50)
    ]
    assert different == [0] * 50


def test_of_ten_million_parameters_no_bit_differs() -> None:
    models, weights = updates(10_000_000, 4)
    expected = flat(models, weights).buffer
    assert np.array_equal(grouped(models, weights, [[3, 1], [2], [0]]).buffer, expected)


def test_with_weights_that_are_fractions_a_last_bit_may_differ() -> None:
    models, _ = updates(200_000, 5)
    weights = [0.3, 1.7, 2.9, 0.1, 5.3]  # float64 holds none exactly, and many means lie between two float32
    expected = flat(models, weights).buffer.view(np.int32)
    found = grouped(models, weights, [[3, 4], [0, 1, 2]]).buffer.view(np.int32)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 1e-3


def test_where_weights_are_powers_of_two_and_values_short_the_bits_are_certain_in_float64_too() -> None:
    models = [Model.from_arrays([np.arange(64) * (index + 1) / 8]) for index in range(9)]
    weights = [float(2**index) for index in range(9)]
    expected = flat(models, weights).buffer
    assert all(np.array_equal(grouped(models, weights, groups).buffer, expected) for groups in groupings(9, 20))


def test_integers_and_booleans_are_rounded_once() -> None:
    models = [Model.from_arrays([np.array([index, 7], np.int64), np.array([index > 1])]) for index in range(4)]
    model = grouped(models, [1.0] * 4, [[0, 1, 2], [3]])
    assert [array.tolist() for array in model.arrays()] == [[2, 7], [True]]


def test_a_compensated_sum_takes_sums_as_well() -> None:
    total = CompensatedSum(of(0.0).manifest)
    total.add_parts(summed([of(1e16), of(1.0)], [1.0, 1.0]).parts, 2.0)
    total.add_parts(summed([of(-1e16)], [1.0]).parts, 1.0)
    assert total.divided_by(1.0, 1).arrays()[0] == np.float32(np.float32(1e16) + 1.0) - np.float32(1e16)


def test_a_server_optimizer_steps_along_the_mean_of_sums() -> None:
    first, models, weights = of(0.0, 0.0), [of(1.0, 2.0), of(3.0, 4.0)], [1.0, 3.0]
    whole, parts = started(FedAdam(), first), started(FedAdam(), first)
    for model, weight in zip(models, weights, strict=True):
        fold(whole, model, weight)
    parts.fold_sum(summed(models, weights))
    np.testing.assert_array_equal(parts.aggregate(1).buffer, whole.aggregate(1).buffer)


class Shortens(FedAvg):
    """Does something with each update."""

    def fold(self, update: Update) -> None:
        super().fold(Update(update.learner, update.model, min(update.weight, 10.0)))


class Logs(FedAvg):
    """Overrides something else."""

    def discard(self) -> None:
        super().discard()


class Looks:
    """Is mixed into rules, and looks at each update."""

    def fold(self, update: Update) -> None:
        super().fold(update)  # type: ignore[misc]


class LooksAtAll(Looks, FedAvg):
    """A mean that wants to see each update."""


class Halves(FedAvgM):
    def fold(self, update: Update) -> None:
        super().fold(Update(update.learner, update.model, update.weight / 2))


@pytest.mark.parametrize("rule", [FedRec(), Krum(), NormBound(1.0)])
def test_a_rule_that_wants_to_see_each_update_refuses_sums_by_name(rule: AggregationRule) -> None:
    assert not rule.is_mean
    with pytest.raises(ConfigError, match=f"aggregation_rule is '{type(rule).__name__}'; allowed: a rule that is a"):
        rule.fold_sum(summed([of(1.0)], [1.0]))


@pytest.mark.parametrize("rule", [Shortens(), LooksAtAll(), Halves(), FedAvgM(Shortens())])
def test_a_rule_that_changes_how_another_one_folds_is_no_mean(rule: AggregationRule) -> None:
    assert not rule.is_mean


@pytest.mark.parametrize("rule", [FedAvg(), FedStride(), Logs(), FedAvgM(), FedAdam(Logs())])
def test_means_take_sums(rule: AggregationRule) -> None:
    assert rule.is_mean


def test_a_sum_that_does_not_fit_the_model_or_is_not_finite_is_told() -> None:
    fits, other = summed([of(1.0, 2.0)], [1.0]), summed([of(1.0)], [1.0])
    assert fits.unfit() is None
    assert (fits.weight, fits.size_bytes) == (1.0, 16)
    wrong = PartialSum(fits.manifest, 0, other.parts, fits.contributions)
    assert wrong.unfit() == "the sum has parts of shapes [(1,)]; those of the global model have [(2,)]"
    with np.errstate(over="ignore"):
        infinite = PartialSum(fits.manifest, 0, [np.array([1.0, np.inf])], fits.contributions)
    assert infinite.unfit() == "the sum holds a value that is not finite"


def test_a_sum_in_one_buffer_is_the_same_sum() -> None:
    random = np.random.default_rng(3)
    models = [
        Model.from_arrays(
            [
                random.standard_normal((3, 5)).astype(np.float32),
                random.standard_normal(7).astype(np.float32),
                random.integers(-9, 9, 3),
                np.array(random.standard_normal() > 0),
                np.zeros((0, 4), np.float16),
                random.standard_normal(2).astype(np.float16),
            ]
        )
        for _ in range(3)
    ]
    weights = [3.0, 1.0, 7.0]
    partial, of = summed(models, weights), models[0].manifest
    total = Sum(of)
    total.load(partial.parts)
    wide = Sum.packed_manifest(of)
    assert [(spec.name, spec.dtype, spec.shape) for spec in wide.tensors] == [
        (spec.name, "float64", spec.shape) for spec in of.tensors
    ]
    packed = total.packed(wide, 4)
    assert packed.version == 4
    assert not packed.buffer[wide.padding].any()
    other = Sum(of)
    other.unpack(packed)
    parts = other.parts()
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(parts, partial.parts, strict=True))
    mean = other.divided_by(11.0, 4)
    assert np.array_equal(mean.buffer, flat(models, weights).buffer)
    rule = started(FedAvg(), models[0])
    rule.fold_sum(partial)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(rule.summed().parts(), parts, strict=True))
    again = total.packed(wide, 5, again=packed.buffer)
    assert again.buffer is packed.buffer
