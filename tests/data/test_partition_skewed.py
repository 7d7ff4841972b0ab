"""The partitions in which sites differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array
from metisfl_async.data.partition import dirichlet_partition, label_partition, quantity_partition

X = np.arange(1000)
Y = np.arange(1000) % 10
Parts = list[tuple[Array, Array]]
all_three = pytest.mark.parametrize("partition", [label_partition, dirichlet_partition, quantity_partition])


def sizes(parts: Parts) -> list[int]:
    return [len(x) for x, _ in parts]


@all_three
@given(num_partitions=st.integers(5, 20), seed=st.integers(0, 2**32))
def test_every_example_is_in_exactly_one_part_with_its_label(
    partition: Callable[..., Parts], num_partitions: int, seed: int
) -> None:
    parts = partition(X, Y, num_partitions=num_partitions, seed=seed)
    assert len(parts) == num_partitions
    assert sorted(np.concatenate([x for x, _ in parts])) == list(X)
    assert all((y == x % 10).all() for x, y in parts)
    assert min(sizes(parts)) >= 1


@all_three
def test_the_same_seed_deals_the_same_and_nobodys_generator_is_touched(partition: Callable[..., Parts]) -> None:
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    first, again, another = (partition(X, Y, num_partitions=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_equal(np.random.get_state(legacy=False), state)  # noqa: NPY002
    assert [x.tolist() for x, _ in first] == [x.tolist() for x, _ in again]
    assert [x.tolist() for x, _ in first] != [x.tolist() for x, _ in another]


@given(num_partitions=st.integers(1, 30), classes=st.integers(1, 10), seed=st.integers(0, 99))
def test_a_part_has_exactly_so_many_classes(num_partitions: int, classes: int, seed: int) -> None:
    if num_partitions * classes < 10:
        return
    parts = label_partition(X, Y, num_partitions=num_partitions, classes_per_partition=classes, seed=seed)
    assert [len(np.unique(y)) for _, y in parts] == [classes] * num_partitions


def test_a_class_is_split_evenly_among_the_parts_that_have_it() -> None:
    parts = label_partition(X, Y, num_partitions=10, classes_per_partition=2)
    assert sizes(parts) == [100] * 10


def test_a_small_alpha_makes_labels_uneven_and_a_large_one_even() -> None:
    def spread(alpha: float) -> float:
        parts = dirichlet_partition(X, Y, num_partitions=5, alpha=alpha, seed=3)
        return float(np.std([[np.count_nonzero(y == label) for label in range(10)] for _, y in parts]))

    assert spread(0.1) > 1.5 * spread(1.0) > 5 * spread(1000.0)


def test_a_small_alpha_makes_sizes_uneven_and_labels_stay_mixed() -> None:
    even = sizes(quantity_partition(X, Y, num_partitions=5, alpha=1e6))
    uneven = quantity_partition(X, Y, num_partitions=5, alpha=0.3, min_examples=20, seed=1)
    assert max(even) - min(even) < 10
    assert min(sizes(uneven)) >= 20
    assert max(sizes(uneven)) > 3 * min(sizes(uneven))
    largest = max((y for _, y in uneven), key=len)
    assert len(np.unique(largest)) == 10


@pytest.mark.parametrize(
    ("partition", "options", "field"),
    [
        (label_partition, {"classes_per_partition": 0}, "classes_per_partition"),
        (label_partition, {"classes_per_partition": 11}, "classes_per_partition"),
        (label_partition, {"classes_per_partition": 1}, "classes_per_partition"),  # 5 parts of 1 leave 5 classes over
        (label_partition, {"classes_per_partition": 2.0}, "classes_per_partition"),
        (label_partition, {"num_partitions": 0}, "num_partitions"),
        (dirichlet_partition, {"alpha": 0}, "alpha"),
        (dirichlet_partition, {"alpha": float("inf")}, "alpha"),
        (dirichlet_partition, {"alpha": True}, "alpha"),
        (dirichlet_partition, {"min_examples": 201}, "min_examples"),
        (dirichlet_partition, {"min_examples": 200, "alpha": 0.01}, "min_examples"),
        (quantity_partition, {"alpha": "much"}, "alpha"),
        (quantity_partition, {"min_examples": 0}, "min_examples"),
        (quantity_partition, {"num_partitions": 1001}, "num_partitions"),
    ],
)
def test_what_does_not_fit_is_named(partition: Callable[..., Parts], options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        partition(X, Y, **({"num_partitions": 5} | options))
    assert caught.value.field == field


def test_a_class_with_too_few_examples_is_named() -> None:
    with pytest.raises(ConfigError, match="at least 4 examples of it"):
        label_partition(np.arange(12), np.array([0] * 10 + [1] * 2), num_partitions=4, classes_per_partition=2)


@all_three
def test_labels_for_other_examples_are_refused(partition: Callable[..., Parts]) -> None:
    with pytest.raises(ConfigError, match="y is '999 labels'"):
        partition(X, Y[1:], num_partitions=5)
