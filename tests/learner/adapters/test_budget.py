"""A budget ends training exactly when it should, and its times are those of its clock."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import pytest

from metisfl_async import ConfigError
from metisfl_async.adapters import BatchBudget
from metisfl_async.core.metrics import Json

pytestmark = pytest.mark.slow


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("config", "num_batches", "num_epochs"),
    [
        ({}, 4, 1),
        ({"batch_size": 10}, 10, 1),
        ({"batch_size": 30, "epochs": 3}, 12, 3),
        ({"batch_size": 1000}, 1, 1),  # less data than a batch is still a batch
        ({"batch_size": 30, "epochs": 3, "num_local_updates": 2}, 2, 1),
        ({"batch_size": 30, "num_local_updates": 4}, 4, 1),
        ({"batch_size": 30, "num_local_updates": 5}, 5, 2),
    ],
    ids=str,
)
def test_the_first_budget_is_epochs_of_whole_batches_and_then_what_is_asked_for(
    config: dict[str, Json], num_batches: int, num_epochs: int
) -> None:
    budget = BatchBudget(config, num_examples=100)
    assert (budget.num_batches, budget.num_epochs) == (num_batches, num_epochs)
    assert len(list(budget.shuffled_rows(np.random.default_rng()))) == num_batches
    assert budget.metadata()["num_completed_batches"] == budget.num_completed == num_batches


def test_batches_go_on_into_the_next_epoch_and_stop_in_its_middle() -> None:
    budget = BatchBudget({"num_local_updates": 5}, num_examples=90, batches_per_epoch=3)
    assert list(budget.batches("abc")) == ["a", "b", "c", "a", "b"]
    assert budget.metadata()["num_completed_batches"] == 5
    assert list(budget.batches("abc")) == []


def test_every_epoch_has_every_row_once_in_another_order() -> None:
    budget = BatchBudget({"batch_size": 8, "epochs": 2}, num_examples=20)
    drawn = [rows.tolist() for rows in budget.shuffled_rows(np.random.default_rng(3))]
    assert [len(rows) for rows in drawn] == [8, 8, 4, 8, 8, 4]
    first, second = list(chain(*drawn[:3])), list(chain(*drawn[3:]))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    again = BatchBudget({"batch_size": 8, "epochs": 2}, num_examples=20)
    assert [rows.tolist() for rows in again.shuffled_rows(np.random.default_rng(3))] == drawn


def test_times_are_milliseconds_and_leave_out_the_first_batch() -> None:
    clock = FakeClock()
    budget = BatchBudget({"batch_size": 10, "num_local_updates": 3}, num_examples=100, clock=clock)
    for seconds in budget.batches([5.0, 0.25, 0.75]):  # the first one compiles
        clock.now += seconds
    assert budget.metadata() == {
        "num_training_examples": 100,
        "num_completed_batches": 3,
        "processing_ms_per_batch": 500.0,
        "processing_ms_per_epoch": 5000.0,  # ten batches, seven of which were cut off
    }


def test_a_single_batch_is_timed_itself() -> None:
    clock = FakeClock()
    budget = BatchBudget({"num_local_updates": 1}, num_examples=64, clock=clock)
    budget.start()
    clock.now += 2
    budget.count()
    assert budget.is_spent
    assert budget.metadata()["processing_ms_per_batch"] == 2000.0
    assert budget.metadata()["processing_ms_per_epoch"] == 4000.0


def test_batches_that_are_counted_together_are_timed_together() -> None:
    clock = FakeClock()
    budget = BatchBudget({}, num_examples=25, batches_per_epoch=25, clock=clock)
    budget.start()
    for seconds, num_batches in ((9.0, 10), (1.0, 10), (2.0, 5)):
        clock.now += seconds
        budget.count(num_batches)
    assert budget.metadata()["processing_ms_per_batch"] == 200.0


def test_cancelling_ends_it_after_the_batch_and_before_the_first() -> None:
    is_cancelled = False
    budget = BatchBudget({"epochs": 9}, num_examples=90, batches_per_epoch=3, is_cancelled=lambda: is_cancelled)
    for batch in budget.batches("abc"):
        is_cancelled = batch == "b"
    assert budget.num_completed == 2
    cancelled = BatchBudget({}, num_examples=90, is_cancelled=lambda: True)
    assert list(cancelled.batches("abc")) == []
    assert cancelled.metadata() == {
        "num_training_examples": 90,
        "num_completed_batches": 0,
        "processing_ms_per_batch": 0.0,
        "processing_ms_per_epoch": 0.0,
    }


@pytest.mark.parametrize("name", ["batch_size", "epochs", "num_local_updates"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None], ids=repr)
def test_numbers_that_make_no_sense_are_named(name: str, value: Json) -> None:
    with pytest.raises(ConfigError) as caught:
        BatchBudget({name: value}, num_examples=10)
    assert (caught.value.field, caught.value.value) == (f"config[{name!r}]", value)


def _once() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: BatchBudget({}, num_examples=0),
        lambda: BatchBudget({}, num_examples=10, batches_per_epoch=0),
        lambda: BatchBudget({"batch_size": 8}, num_examples=10, batches_per_epoch=2),
        lambda: list(BatchBudget({}, num_examples=10).batches([])),
        lambda: list(BatchBudget({"epochs": 2}, num_examples=10).batches(_once())),
        lambda: list(BatchBudget({}, num_examples=10, batches_per_epoch=2).shuffled_rows(np.random.default_rng())),
    ],
    ids=["no examples", "no batches", "batched twice", "empty", "cannot begin again", "rows of batches"],
)
def test_misuse_is_refused_and_does_not_hang(misuse: Callable[[], object]) -> None:
    with pytest.raises(ConfigError) as caught:
        misuse()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
