"""What strategies keep from model to model survives their controller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rules import B, C, fold, of, started

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.aggregation.bulyan import Bulyan
from metisfl_async.core.strategies.aggregation.centered_clipping import CenteredClipping
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.geometric_median import GeometricMedian
from metisfl_async.core.strategies.aggregation.krum import Krum, MultiKrum
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean
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
    Median,
    TrimmedMean,
    lambda: Krum(1),
    lambda: MultiKrum(1),
    GeometricMedian,
    lambda: CenteredClipping(0.3),
    Bulyan,
    lambda: NormBound(0.3),
    lambda: NormBound(0.3, FedBuff(2, max_staleness=1)),
    lambda: FedAvgM(NormBound(0.3)),
]
OTHERS = [LearnerId(f"site-{number}") for number in range(7)]  #: whose updates make enough of them


def fold_others(rule: AggregationRule) -> None:
    """Let as many learners report as the rule needs."""
    for number, learner in enumerate(OTHERS[: rule.min_updates - 1]):
        fold(rule, of(0.1 * number, 0.3 - number / 7), 1.0, learner)


@pytest.mark.parametrize("new", RULES, ids=lambda new: type(new()).__name__)
def test_a_rule_that_is_restored_makes_the_same_models_bit_for_bit(new: Callable[[], AggregationRule]) -> None:
    rule, models = started(new(), of(0.1, 0.2)), [of(0.1, 0.2)]
    for version in (1, 2):
        fold(rule, of(1.0 / 3, version / 7), 1.0)
        fold(rule, of(-0.7, 0.9), 2.0, B)
        fold_others(rule)
        models.append(rule.aggregate(version))
    state = {name: values.copy() for name, values in rule.state().items()}
    again = new()
    again.start(models[0])
    again.restore(models[-2:], state)
    for each in (rule, again):
        fold(each, of(0.3, -0.3), 1.0, C)
        fold(each, of(0.123, 4.56), 3.0)
        fold_others(each)
    np.testing.assert_array_equal(rule.aggregate(3).arrays()[0], again.aggregate(3).arrays()[0])


@pytest.mark.parametrize("new", RULES, ids=lambda new: type(new()).__name__)
def test_one_that_made_no_model_yet_is_restored_too(new: Callable[[], AggregationRule]) -> None:
    rule, again = started(new(), of(0.1, 0.2)), started(new(), of(0.1, 0.2))
    again.restore([of(0.1, 0.2)], {})
    for each in (rule, again):
        fold(each, of(0.3, -0.3), 1.0)
        fold(each, of(0.1, -0.3), 1.0, B)
        fold_others(each)
    np.testing.assert_array_equal(rule.aggregate(1).arrays()[0], again.aggregate(1).arrays()[0])


def test_a_scheduler_remembers_the_first_timings() -> None:
    cohort, params = [LearnerId("a"), LearnerId("b")], {"epochs": 1}
    first = {cohort[0]: Timing(10.0, 100.0), cohort[1]: Timing(20.0, 400.0)}
    later = {learner: Timing(1.0, 1.0) for learner in cohort}
    scheduler, again = SemiSynchronous(2.0), SemiSynchronous(2.0)
    plans = scheduler.train_params(cohort, params, first)
    again.restore(scheduler.state())
    assert again.train_params(cohort, params, later) == plans
