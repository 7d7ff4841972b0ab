from __future__ import annotations

import math

import numpy as np
import pytest
from rules import A, B, C, fold, of, started

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.krum import Krum
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, made
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAvgM


def test_an_update_that_changes_more_is_shortened_by_hand() -> None:
    rule = started(NormBound(5.0), of(1.0, 1.0))
    fold(rule, of(31.0, 41.0), 1.0, A)  # it changes (30, 40), and may change (3, 4)
    fold(rule, of(4.0, 5.0), 1.0, B)  # (3, 4), as much as it may
    fold(rule, of(1.0, 2.0), 2.0, C)
    np.testing.assert_allclose(made(rule, 1).arrays()[0], [1.0 + 1.5, 1.0 + 2.5], rtol=1e-7)
    assert rule.notes() == {A: {"clipped_from": pytest.approx(50.0), "clipped_to": 5.0}}
    fold(rule, of(2.5, 3.5), 1.0, A)
    made(rule, 2)
    assert rule.notes() == {}


def test_the_norm_is_of_all_floats_together_and_integers_stay() -> None:
    size = BLOCK + 3

    def model(value: float, number: int) -> Model:
        return Model.from_arrays(
            [np.full(size, value, np.float32), np.array([number], np.int64), np.full(size, value), np.array([True])]
        )

    rule = started(NormBound(1.0), model(0.0, 3))
    fold(rule, model(100.0, 2**62 + 1), 1.0)
    one, number, other, flag = made(rule, 1).arrays()
    expected = 1.0 / math.sqrt(2 * size)
    np.testing.assert_allclose(one, expected, rtol=1e-6)
    np.testing.assert_allclose(other, expected, rtol=1e-12)
    assert (int(number[0]), bool(flag[0])) == (2**62, True)  # as FedAvg makes them, in float64


def test_one_that_is_infinitely_far_away_changes_nothing() -> None:
    rule = started(NormBound(2.0), Model.from_arrays([np.zeros(2)]))
    fold(rule, Model.from_arrays([np.array([1e200, 0.0])]), 1.0)
    assert made(rule, 1).arrays()[0].tolist() == [0.0, 0.0]
    assert rule.notes()[A]["clipped_from"] == math.inf


def test_the_update_itself_stays_as_it_is() -> None:
    update = of(100.0)
    rule = started(NormBound(1.0), of(0.0))
    fold(rule, update, 1.0)
    assert update.arrays()[0] == 100.0


def test_it_wraps_any_rule_and_asks_for_what_that_one_needs() -> None:
    rule = NormBound(5.0, Krum(1))
    assert (rule.min_updates, rule.is_heavy, rule.starts_afresh) == (5, True, True)
    assert not NormBound(1.0, FedBuff(3)).starts_afresh
    assert NormBound(1.0, FedBuff(3)).updates_per_version == 3
    started(rule, of(0.0))
    for number, learner in enumerate("abcde"):
        fold(rule, of(100.0 if learner == "e" else float(number)), 1.0, learner)  # type: ignore[arg-type]
    made(rule, 1)
    notes = rule.notes()
    assert [note["is_selected"] for note in notes.values()].count(True) == 1
    assert notes["e"] == {"is_selected": False, "clipped_from": 100.0, "clipped_to": 5.0}  # type: ignore[index]
    momentum = started(FedAvgM(NormBound(1.0), momentum=0.0), of(0.0))
    fold(momentum, of(9.0), 1.0)
    assert made(momentum, 1).arrays()[0] == 1.0
    assert momentum.notes() == {A: {"clipped_from": 9.0, "clipped_to": 1.0}}


def test_an_update_is_measured_from_the_model_that_it_started_from_where_that_is_kept() -> None:
    rule: AggregationRule = started(NormBound(2.0, FedBuff(1, exponent=0.0, max_staleness=2)), of(0.0))
    for version in (1, 2):
        fold(rule, of(version * 2.0), 1.0)
        made(rule, version)
    fold(rule, of(2.0), 1.0, staleness=1)  # from 2, where it changed nothing
    assert made(rule, 3).arrays()[0] == 4.0
    assert rule.notes() == {}
    mixed = started(NormBound(2.0, FedAsync(1.0, "constant")), of(0.0))
    fold(mixed, of(2.0), 1.0)
    made(mixed, 1)
    fold(mixed, of(-5.0), 1.0, staleness=1)  # from the latest: the one before is not kept
    assert made(mixed, 2).arrays()[0] == 0.0


def test_it_goes_on_from_the_model_before_and_after_a_restart() -> None:
    rule = started(NormBound(2.0, FedBuff(1, exponent=0.0)), of(0.0))
    fold(rule, of(1.0), 1.0)
    first = made(rule, 1)
    fold(rule, of(3.0), 1.0)
    made(rule, 2)
    rule.take_back(first)
    fold(rule, of(9.0), 1.0)
    assert made(rule, 2).arrays()[0] == 3.0
    again = started(NormBound(2.0, FedAvg()), of(0.0))
    again.restore([of(5.0, version=7)], again.state())
    fold(again, of(10.0), 1.0)
    assert made(again, 8).arrays()[0] == 7.0
    fold(again, of(100.0), 1.0, B)
    again.discard()
    fold(again, of(8.0), 1.0)
    assert made(again, 9).arrays()[0] == 8.0
    assert again.notes() == {}


def test_rules_that_want_the_update_before_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"rule is <.*FedRec.*>; allowed: a rule that does not need each learner's upd"
    ):
        NormBound(1.0, FedRec())
    with pytest.raises(ConfigError, match="rule is 'FedAvg'"):
        NormBound(1.0, "FedAvg")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tau is -1; allowed: a finite number > 0"):
        NormBound(-1, Median())
