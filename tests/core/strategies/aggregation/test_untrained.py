"""Tensors that are marked as not trained are never stepped: every rule makes a mean of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from rules import A, B, fold, started

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Manifest, Model, Run
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.infinities import Infinities
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi


def layer(weight: float, variance: float, version: int = 0) -> Model:
    """A weight, a running variance beside it, and a counter."""
    arrays = [np.full(3, weight, np.float32), np.full(20, variance, np.float32), np.array(7), np.full(2, weight)]
    return Model.from_arrays(arrays, ["w", "var", "seen", "b"], untrained=["var", "seen"], version=version)


@pytest.mark.parametrize("kind", [FedAvgM, FedAdagrad, FedAdam, FedYogi])
def test_a_server_optimizer_steps_what_is_trained_and_takes_the_mean_of_the_rest(kind: type[FedAdam]) -> None:
    rule, plain = started(kind(), layer(1.0, 1.0)), started(kind(), Model.from_arrays([np.full(3, 1.0, np.float32)]))
    for version, variance in enumerate((0.5, 0.1, 0.02, 0.01), start=1):  # momentum would push it below zero
        for learner, own in ((A, variance), (B, variance * 3)):
            fold(rule, layer(0.9, own), 1.0, learner)
        fold(plain, Model.from_arrays([np.full(3, 0.9, np.float32)]), 1.0)
        w, var, seen, b = rule.aggregate(version).arrays()
        np.testing.assert_allclose(var, variance * 2, rtol=1e-6)
        np.testing.assert_array_equal(w, plain.aggregate(version).arrays()[0])
        np.testing.assert_allclose(b, w[:2], rtol=1e-6)
        assert seen == 7


def test_what_an_optimizer_remembers_is_of_what_is_trained() -> None:
    rule = started(FedAvgM(), layer(1.0, 1.0))
    fold(rule, layer(2.0, 1.0), 1.0)
    model = rule.aggregate(1)
    assert {name: len(values) for name, values in rule.state().items()} == {"0/0": 3, "1/0": 2}
    again: AggregationRule = FedAvgM()
    again.restore([model], rule.state())
    results = []
    for each in (rule, again):
        fold(each, layer(2.0, 0.5), 1.0)
        results.append(each.aggregate(2).buffer)
    assert (results[0] == results[1]).all()


def test_fedbuff_makes_a_mean_of_them_whatever_its_rate_and_the_models_that_updates_started_from() -> None:
    rule = started(FedBuff(2, learning_rate=3.0, exponent=0.0), layer(1.0, 1.0))
    for update in (layer(2.0, 0.2), layer(0.0, 0.4)):
        fold(rule, update, 1.0)
    w, var, *_ = rule.aggregate(1).arrays()
    assert w[0] == 1.0
    np.testing.assert_allclose(var, 0.3, rtol=1e-6)
    fold(rule, layer(2.0, 0.2), 1.0, staleness=1)  # it changed the variance by -0.8, which would make it negative
    fold(rule, layer(1.0, 0.1), 1.0)
    w, var, *_ = rule.aggregate(2).arrays()
    assert w[0] == 1.0 + 3.0 * 0.5
    np.testing.assert_allclose(var, 0.15, rtol=1e-6)


def test_marks_cut_what_is_stepped_and_change_nothing_else() -> None:
    model = layer(1.0, 1.0)
    manifest, plain = model.manifest, Manifest(model.manifest.tensors)
    assert manifest == plain
    assert manifest.difference(plain) is None
    assert manifest.unmarked == plain
    assert manifest.unmarked.untrained == plain.untrained == ()
    assert plain.unmarked is plain
    assert manifest.runs == plain.runs
    assert manifest.trained_runs == (Run("float32", 0, 12), Run("float64", 256, 272))
    assert plain.trained_runs == (Run("float32", 0, 144), Run("float64", 256, 272))
    assert manifest.untrained_parts == ((0, slice(16, 36)), (1, slice(0, 1)))
    assert pickle.loads(pickle.dumps(manifest)).untrained == manifest.untrained == (1, 2)
    with pytest.raises(ConfigError, match=r"untrained is \['bias'\]; allowed: names of the tensors: w"):
        Model.from_arrays([np.zeros(1)], ["w"], untrained=["bias"])


def masked(value: float, mask: float = -np.inf, **options: object) -> Model:
    arrays = [np.full(2, value, np.float32), np.array([[0.0, mask], [0.0, 0.0]]), np.array(3)]
    return Model.from_arrays(arrays, ["w", "mask", "seen"], **options)  # type: ignore[arg-type]


def test_first_weights_may_be_infinite_where_they_are_not_trained() -> None:
    assert unfit(masked(1.0, untrained=["mask"]), is_first=True) is None
    for model in (masked(1.0), masked(1.0, np.nan, untrained=["mask"]), masked(np.inf, 0.0, untrained=["mask"])):
        assert str(unfit(model, is_first=True)).startswith("tensor '")
    assert unfit(masked(1.0, untrained=["mask"])) is not None


def test_infinities_are_kept_from_rules_and_put_back() -> None:
    first = masked(1.0).freeze()
    infinities = Infinities.of(first)
    assert infinities is not None
    assert Infinities.of(masked(1.0, 0.0)) is None
    without = infinities.without(first)
    assert unfit(without) is None
    assert without.is_frozen
    assert (infinities.within(without).buffer == first.buffer).all()
    for mask in (-np.inf, 5.0):  # the same, or a number where all others have none
        update = masked(2.0, mask)
        infinities.clear(update)
        assert update.arrays()[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]
        infinities.restore(update)
        assert update.arrays()[1].tolist() == [[0.0, -np.inf], [0.0, 0.0]]
    for damage in (np.nan, np.inf):
        update = masked(2.0, damage)
        infinities.clear(update)
        assert str(unfit(update)).startswith("tensor 'mask' holds")
