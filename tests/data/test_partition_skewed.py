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
Parts = tuple[list[Array], list[Array]]
all_three = pytest.mark.parametrize("partition", [label_partition, dirichlet_partition, quantity_partition])


def sizes(parts: Parts) -> list[int]:
    return [len(x) for x in parts[0]]


@all_three
@given(num_partitions=st.integers(5, 20), seed=st.integers(0, 2**32))
def test_every_example_is_in_exactly_one_part_with_its_label(
    partition: Callable[..., Parts], num_partitions: int, seed: int
) -> None:
    parts = x_chunks, y_chunks = partition(X, Y, num_partitions=num_partitions, seed=seed)
    assert len(x_chunks) == num_partitions
    assert sorted(np.concatenate(x_chunks)) == list(X)
    assert all((y == x % 10).all() for x, y in zip(x_chunks, y_chunks, strict=True))
    assert min(sizes(parts)) >= 1


@all_three
def test_the_same_seed_deals_the_same_and_nobodys_generator_is_touched(partition: Callable[..., Parts]) -> None:
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    first, again, another = (partition(X, Y, num_partitions=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_equal(np.random.get_state(legacy=False), state)  # noqa: NPY002
    assert [x.tolist() for x in first[0]] == [x.tolist() for x in again[0]]
    assert [x.tolist() for x in first[0]] != [x.tolist() for x in another[0]]


@given(num_partitions=st.integers(1, 30), classes=st.integers(1, 10), seed=st.integers(0, 99))
def test_a_part_has_exactly_so_many_classes(num_partitions: int, classes: int, seed: int) -> None:
    if num_partitions * classes < 10:
        return
    _, y_chunks = label_partition(X, Y, num_partitions=num_partitions, classes_per_partition=classes, seed=seed)
    assert [len(np.unique(y)) for y in y_chunks] == [classes] * num_partitions


def test_a_class_is_split_evenly_among_the_parts_that_have_it() -> None:
    parts = label_partition(X, Y, num_partitions=10, classes_per_partition=2)
    assert sizes(parts) == [100] * 10


def test_a_small_alpha_makes_labels_uneven_and_a_large_one_even() -> None:
    def spread(alpha: float) -> float:
        _, y_chunks = dirichlet_partition(X, Y, num_partitions=5, alpha=alpha, seed=3)
        return float(np.std([[np.count_nonzero(y == label) for label in range(10)] for y in y_chunks]))

    assert spread(0.1) > 1.5 * spread(1.0) > 5 * spread(1000.0)


def test_a_small_alpha_makes_sizes_uneven_and_labels_stay_mixed() -> None:
    even = sizes(quantity_partition(X, Y, num_partitions=5, alpha=1e6))
    uneven = quantity_partition(X, Y, num_partitions=5, alpha=0.3, min_examples=20, seed=1)
    assert max(even) - min(even) < 10
    assert min(sizes(uneven)) >= 20
    assert max(sizes(uneven)) > 3 * min(sizes(uneven))
    largest = max(uneven[1], key=len)
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
        (quantity_partition, {"min_examples": -1}, "min_examples"),
        (quantity_partition, {"min_examples": 0, "num_partitions": 0}, "num_partitions"),
        (dirichlet_partition, {"min_examples": 0, "num_partitions": True}, "num_partitions"),
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


@pytest.mark.parametrize("partition", [dirichlet_partition, quantity_partition])
def test_parts_may_be_empty_if_that_is_allowed(partition: Callable[..., Parts]) -> None:
    x_chunks, y_chunks = parts = partition(X[:50], Y[:50], num_partitions=200, alpha=0.1, min_examples=0)
    assert len(x_chunks) == len(y_chunks) == 200
    assert sum(sizes(parts)) == 50
    assert min(sizes(parts)) == 0
    assert sorted(np.concatenate(x_chunks)) == list(X[:50])


@pytest.mark.slow
def test_with_many_parts_a_draw_that_cannot_be_had_says_how_it_can() -> None:
    with pytest.raises(ConfigError, match="0: parts may be empty"):
        dirichlet_partition(X, Y, num_partitions=900, alpha=0.1)


@given(num_partitions=st.integers(2, 20), alpha=st.sampled_from([0.01, 0.1, 1.0]), seed=st.integers(0, 99))
def test_a_part_that_has_its_share_gets_no_further_class(num_partitions: int, alpha: float, seed: int) -> None:
    options = {"num_partitions": num_partitions, "alpha": alpha, "min_examples": 0, "seed": seed}
    x_chunks, y_chunks = dirichlet_partition(X, Y, self_balancing=True, **options)  # type: ignore[call-overload]
    assert sorted(np.concatenate(x_chunks)) == list(X)
    for y in y_chunks:  # without the class that it got last, it is below its share
        assert len(y) < 1000 / num_partitions + 100
        assert len(y) - np.bincount(y, minlength=10).max() < 1000 / num_partitions


def test_labels_without_an_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="labels of several types"):
        label_partition(np.arange(4), np.array([1, "a", 2, "b"], object), num_partitions=2)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, np.nan, 1, 1]),
        np.array(["cat", None, "dog", "dog"], object),
        np.array(["cat", float("nan"), "dog", "dog"], object),
        np.array(["2026-01-01", "NaT", "2026-01-02", "2026-01-02"], "M8[D]"),
        [0.0, float("nan"), 1.0, 1.0],
    ],
)
@pytest.mark.parametrize("partition", [label_partition, dirichlet_partition])
def test_missing_labels_are_refused(partition: Callable[..., Parts], labels: object) -> None:
    with pytest.raises(ConfigError, match=r"^y is '4 labels, of which 1 are missing'; allowed: a label for each"):
        partition(np.arange(4), labels, num_partitions=2)
