"""Means that are kept up to date are those that are made anew."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox import A, B, C

from metisfl_async.core.federation.running_means import RunningMeans
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Metrics, weighted_means

learners = st.sampled_from([A, B, C])
weights = st.floats(1e-9, 2.0**53)
values = st.floats(-1e3, 1e3) | st.sampled_from([1e200, -1e200, math.inf, -math.inf, math.nan])
reports = st.tuples(learners, weights, st.dictionaries(st.sampled_from(["accuracy", "loss"]), values))
steps = st.lists(reports | st.tuples(learners, weights) | learners, max_size=30)


@given(steps)
def test_they_are_the_means_of_the_latest_reports(
    steps: list[tuple[LearnerId, float, Metrics] | tuple[LearnerId, float] | LearnerId],
) -> None:
    running, latest = RunningMeans(), dict[LearnerId, tuple[float, Metrics]]()
    for step in steps:
        match step:
            case (learner, weight, metrics):
                running.report(learner, weight, metrics)
                latest[learner] = weight, metrics
            case (learner, weight):
                running.weigh(learner, weight)
                if learner in latest:
                    latest[learner] = weight, latest[learner][1]
            case learner:
                running.forget(learner)
                latest.pop(learner, None)
        expected, means = weighted_means(latest.values()), running.means()
        assert len(running) == len(latest)
        assert list(means) == list(expected)
        for name, mean in means.items():
            largest = max((abs(metrics[name]) for _, metrics in latest.values() if name in metrics), default=0.0)
            around = (
                max(1e-12 * largest, 1e-280) if largest < math.inf else 0.0
            )  # products of the smallest are zero there
            is_close = math.isclose(mean, expected[name], abs_tol=around)
            assert is_close or (math.isnan(mean) and math.isnan(expected[name]))


def test_a_wild_report_that_is_replaced_leaves_nothing_behind() -> None:
    running = RunningMeans()
    running.report(A, 2.0, {"loss": 0.1})
    running.report(B, 2.0**53, {"loss": 1e308})
    assert running.means() == {"loss": pytest.approx(1e308)}
    running.report(B, 1.0, {"loss": 0.4})
    assert running.means() == {"loss": pytest.approx(0.2, rel=1e-15)}
