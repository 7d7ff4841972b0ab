from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules import fold, of, started

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride


def test_four_learners_in_strides_of_three_are_one_mean() -> None:
    """MetisFL's vector: weights 0.25, values v, v, v, 0, stride 3."""
    first = of(0.0)
    rule = started(FedStride(3), first)
    for value in (2.0, 2.0, 2.0, 0.0):
        fold(rule, of(value), 0.25)
    assert rule.aggregate(1).arrays()[0] == 1.5


@given(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 1000)), min_size=1, max_size=12))
def test_it_is_fedavg_whatever_the_stride(updates: list[tuple[float, int]]) -> None:
    means = []
    for rule in (FedAvg(), FedStride(), FedStride(1), FedStride(5)):
        started(rule, of(0.0))
        for value, weight in updates:
            fold(rule, of(value), weight)
        means.append(float(rule.aggregate(1).arrays()[0][0]))
    assert len(set(means)) == 1


@pytest.mark.parametrize("stride_length", [0, -1, 2.0, "3", True])
def test_a_stride_is_a_number_of_updates(stride_length: int) -> None:
    with pytest.raises(ConfigError, match=r"stride_length is .*; allowed: an integer >= 1"):
        FedStride(stride_length)
