"""TreeBagging puts the new trees of all learners behind those that are there, by share."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from rules import A, B, C, fold, of, started

from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.rule import made
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdam
from metisfl_async.core.strategies.aggregation.tree_bagging import TreeBagging

NAMES = ["num_trees", "num_new", "feature", "value"]
ROOM = 5


def trees(count: int, *new: int) -> Model:
    """Make a model of `count` trees, and new ones of these numbers, whose leaves are ten times as large."""
    rows = [*range(count), *new, *[-1] * (ROOM - count - len(new))]
    feature = np.array(rows, np.int32)[:, None]
    counts = np.array(count, np.int64), np.array(len(new), np.int64)
    return Model.from_arrays([*counts, feature, 10.0 * feature.astype(np.float32)], NAMES)


def test_all_learners_trees_join_the_model_whoever_comes_first() -> None:
    for order in permutations([(A, (1, 2), 3.0), (B, (4,), 1.0), (C, (), 4.0)]):
        rule = started(TreeBagging(), trees(1))
        for learner, new, weight in order:
            fold(rule, trees(1, *new), weight, learner)
        model = made(rule, 1)
        count, new_ones, feature, value = model.arrays()
        assert (int(count), int(new_ones), model.version) == (4, 0, 1)
        assert feature[:4, 0].tolist() == [0, 1, 2, 4]
        assert value[:4, 0].tolist() == [0.0, 10.0 * 3 / 8, 20.0 * 3 / 8, 40.0 / 8]
    fold(rule, Model.from_arrays([a if n != 1 else np.array(1) for n, a in enumerate(model.arrays())], NAMES), 1.0)
    assert int(rule.aggregate(2).arrays()[0]) == 5  # the one that came of the first is what the second goes on from


def test_the_latest_update_of_a_learner_counts_and_discarded_ones_do_not() -> None:
    rule = started(TreeBagging(), trees(0))
    fold(rule, trees(0, 3), 1.0, B)
    rule.discard()
    fold(rule, trees(0, 1, 2), 1.0)
    fold(rule, trees(0, 4), 1.0)
    model = rule.aggregate(1)
    assert int(model.arrays()[0]) == 1
    assert model.arrays()[3][0] == 40.0


def test_what_does_not_fit_is_refused() -> None:
    rule = started(TreeBagging(), trees(2))
    with pytest.raises(ConfigError, match="num_trees of an update is 1; allowed: 2, as in the global model"):
        fold(rule, trees(1, 7), 1.0)
    for count in (-1, 4):
        update = trees(2)
        update.arrays()[1][...] = count
        with pytest.raises(ConfigError, match=f"num_new of an update is {count}; allowed: 0 to 3"):
            fold(rule, update, 1.0)
    fold(rule, trees(2, 1, 1), 1.0, A)
    fold(rule, trees(2, 1, 1), 1.0, B)
    with pytest.raises(NoModel, match="6 trees do not fit into the model, which has room for max_trees=5"):
        made(rule, 1)


def test_a_model_that_is_none_of_trees_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model's tensors is '0'; allowed: those of XGBoostLearner"):
        fold(started(TreeBagging(), of(1.0)), of(1.0), 1.0)
    for wrapped in (FedAdam, lambda rule: NormBound(1.0, rule)):
        with pytest.raises(ConfigError, match="rule"):
            wrapped(TreeBagging())
