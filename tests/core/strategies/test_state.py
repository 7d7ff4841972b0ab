"""What strategies keep from model to model survives their controller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rules import B, C, fold, of, started

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from metisfl_async.core.strategies.scheduling import SemiSynchronous, Timing

RULES: list[Callable[[], AggregationRule]] = [
    FedAvg,
    FedStride,
    lambda: FedAsync(0.5),
    lambda: FedBuff(2, max_staleness=1),
    FedAvgM,
    FedAdagrad,
    FedYogi,
    FedAdam,
]


@pytest.mark.parametrize("new", RULES, ids=lambda new: type(new()).__name__)
def test_a_rule_that_is_restored_makes_the_same_models_bit_for_bit(new: Callable[[], AggregationRule]) -> None:
    rule, models = started(new(), of(0.1, 0.2)), [of(0.1, 0.2)]
    for version in (1, 2):
        fold(rule, of(1.0 / 3, version / 7), 1.0)
        fold(rule, of(-0.7, 0.9), 2.0, B)
        models.append(rule.aggregate(version))
    state = {name: values.copy() for name, values in rule.state().items()}
    again = new()
    again.start(models[0])
    again.restore(models[-2:], state)
    for each in (rule, again):
        fold(each, of(0.3, -0.3), 1.0, C)
        fold(each, of(0.123, 4.56), 3.0)
    np.testing.assert_array_equal(rule.aggregate(3).arrays()[0], again.aggregate(3).arrays()[0])


@pytest.mark.parametrize("new", RULES, ids=lambda new: type(new()).__name__)
def test_one_that_made_no_model_yet_is_restored_too(new: Callable[[], AggregationRule]) -> None:
    rule, again = started(new(), of(0.1, 0.2)), started(new(), of(0.1, 0.2))
    again.restore([of(0.1, 0.2)], {})
    for each in (rule, again):
        fold(each, of(0.3, -0.3), 1.0)
        fold(each, of(0.1, -0.3), 1.0, B)
    np.testing.assert_array_equal(rule.aggregate(1).arrays()[0], again.aggregate(1).arrays()[0])


def test_a_scheduler_remembers_the_first_timings() -> None:
    cohort, params = [LearnerId("a"), LearnerId("b")], {"epochs": 1}
    first = {cohort[0]: Timing(10.0, 100.0), cohort[1]: Timing(20.0, 400.0)}
    later = {learner: Timing(1.0, 1.0) for learner in cohort}
    scheduler, again = SemiSynchronous(2.0), SemiSynchronous(2.0)
    plans = scheduler.train_params(cohort, params, first)
    again.restore(scheduler.state())
    assert again.train_params(cohort, params, later) == plans
