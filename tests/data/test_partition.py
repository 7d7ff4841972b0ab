from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.errors import ConfigError
from metisfl_async.data.partition import iid_partition


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    examples = draw(st.integers(1, 60))
    return examples, draw(st.integers(1, examples))


@given(sizes(), st.integers(0, 2**32))
def test_every_example_is_in_exactly_one_part_with_its_label(size: tuple[int, int], seed: int) -> None:
    examples, num_partitions = size
    x = np.arange(examples * 6).reshape(examples, 2, 3)
    y = x[:, 0, 0] * -1
    x_chunks, y_chunks = iid_partition(x, y, num_partitions=num_partitions, seed=seed)
    assert len(x_chunks) == len(y_chunks) == num_partitions
    dealt = np.concatenate(x_chunks)
    assert sorted(dealt[:, 0, 0]) == list(range(0, examples * 6, 6))
    for part, labels in zip(x_chunks, y_chunks, strict=True):
        assert part.shape[1:] == (2, 3)
        assert (part[:, 0, 0] == -labels).all()
        assert (part[:, 1, 2] == part[:, 0, 0] + 5).all()


@given(sizes())
def test_parts_are_equal_and_the_first_ones_get_what_does_not_divide_evenly(size: tuple[int, int]) -> None:
    examples, num_partitions = size
    counts = [len(part) for part in iid_partition(np.arange(examples), num_partitions=num_partitions)]
    least, more = divmod(examples, num_partitions)
    assert counts == [least + 1] * more + [least] * (num_partitions - more)


def test_examples_are_shuffled_and_neither_examples_nor_labels_are_changed() -> None:
    x, y = np.arange(1000), np.arange(1000) * 2
    (dealt,), (labels,) = iid_partition(x, y, num_partitions=1)
    assert dealt.tolist() != x.tolist()
    assert labels.tolist() == (dealt * 2).tolist()
    assert x.tolist() == list(range(1000))
    assert y.tolist() == list(range(0, 2000, 2))
    assert not np.shares_memory(dealt, x)


def test_the_same_seed_deals_the_same_and_another_one_differently() -> None:
    x = np.arange(1000)
    first, again, another = (iid_partition(x, num_partitions=3, seed=seed) for seed in (1, 1, 2))
    assert [part.tolist() for part in first] == [part.tolist() for part in again]
    assert [part.tolist() for part in first] != [part.tolist() for part in another]


def test_labels_do_not_change_which_examples_go_where() -> None:
    x = np.arange(100)
    without, (with_labels, _) = iid_partition(x, num_partitions=3), iid_partition(x, x, num_partitions=3)
    assert [part.tolist() for part in without] == [part.tolist() for part in with_labels]


def test_numpys_global_generator_is_neither_used_nor_touched() -> None:
    dealt = []
    for _ in range(2):
        state = np.random.get_state(legacy=False)  # noqa: NPY002
        dealt.append(iid_partition(np.arange(100), num_partitions=2)[0].tolist())
        np.testing.assert_equal(np.random.get_state(legacy=False), state)  # noqa: NPY002
        np.random.random()  # noqa: NPY002
    assert dealt[0] == dealt[1]


@pytest.mark.parametrize("num_partitions", [0, -1, 4, 2.0, True, "2", None])
def test_a_wrong_number_of_parts_is_refused(num_partitions: int) -> None:
    message = f"num_partitions is {num_partitions!r}; allowed: an integer from 1 to 3, the number of examples"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        iid_partition(np.arange(3), num_partitions=num_partitions)


def test_labels_that_do_not_fit_the_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^y is '2 labels'; allowed: 3, one for each example$"):
        iid_partition(np.arange(3), np.arange(2), num_partitions=1)
