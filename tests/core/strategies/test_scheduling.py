from __future__ import annotations

import math

import pytest
from sandbox import A, B, C

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.strategies.scheduling import (
    Asynchronous,
    SemiSynchronous,
    Synchronous,
    Timing,
    timing_of,
)

PARAMS = {"batch_size": 32, "epochs": 2}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"processing_ms_per_batch": 2, "processing_ms_per_epoch": 40.0}, Timing(2.0, 40.0)),
        ({"processing_ms_per_batch": 0.0, "processing_ms_per_epoch": 40.0}, Timing(0.0, 40.0)),
        ({"processing_ms_per_batch": 2.0, "processing_ms_per_epoch": 0.0}, None),
        ({"processing_ms_per_batch": 2.0}, None),
        ({"processing_ms_per_epoch": 2.0}, None),
        ({}, None),
        ({"processing_ms_per_batch": "2", "processing_ms_per_epoch": 40.0}, None),
        ({"processing_ms_per_batch": True, "processing_ms_per_epoch": 40.0}, None),
        ({"processing_ms_per_batch": -1.0, "processing_ms_per_epoch": 40.0}, None),
        ({"processing_ms_per_batch": 1.0, "processing_ms_per_epoch": math.inf}, None),
        ({"processing_ms_per_batch": math.nan, "processing_ms_per_epoch": 1.0}, None),
    ],
)
def test_a_timing_is_two_numbers_or_none(report: dict[str, object], expected: Timing | None) -> None:
    assert timing_of(report) == expected


def test_a_synchronous_round_is_over_when_nobody_is_awaited() -> None:
    assert not Synchronous().is_due([A], [B])
    assert Synchronous().is_due([], [])
    assert Synchronous().train_params([A, B], PARAMS, {}) == {A: PARAMS, B: PARAMS}


def test_without_rounds_one_update_is_enough() -> None:
    assert Asynchronous().is_due([A], [B, C])
    assert not Asynchronous().is_due([], [B, C])


def updates(scheduler: SemiSynchronous, cohort: str, timings: dict[str, Timing]) -> dict[str, object]:
    """The number of local updates of each learner of a cohort; None for whole epochs."""
    of = dict(zip("abc", (A, B, C), strict=True))
    plans = scheduler.train_params([of[x] for x in cohort], PARAMS, {of[x]: timings[x] for x in timings})
    assert all(plan["batch_size"] == 32 for plan in plans.values())
    return {learner: plan.get("num_local_updates") for learner, plan in plans.items()}


def test_each_learner_gets_the_batches_that_fit_the_slowest_ones_time() -> None:
    timings = {"a": Timing(10.0, 100.0), "b": Timing(50.0, 500.0), "c": Timing(30.0, 300.0)}
    assert updates(SemiSynchronous(2.0), "abc", timings) == {A: 100, B: 20, C: 34}
    assert updates(SemiSynchronous(0.5), "abc", timings) == {A: 25, B: 5, C: 9}  # a fraction is no fault
    assert updates(SemiSynchronous(2.0), "ac", timings) == {A: 60, C: 20}  # of the cohort, not of everybody


def test_who_has_not_told_its_speed_trains_for_whole_epochs() -> None:
    assert updates(SemiSynchronous(1.0), "abc", {}) == {A: None, B: None, C: None}
    assert updates(SemiSynchronous(1.0), "ab", {"a": Timing(10.0, 100.0)}) == {A: 10, B: None}


def test_no_time_for_a_batch_counts_as_one_millisecond_and_there_is_always_one_batch() -> None:
    timings = {"a": Timing(0.0, 100.0), "b": Timing(1e9, 50.0)}
    assert updates(SemiSynchronous(1.0), "ab", timings) == {A: 100, B: 1}


@pytest.mark.parametrize("claim", [1e15, 1e30, 1e308])
def test_no_more_than_ten_medians_are_believed_to_be_an_epoch_of_the_slowest(claim: float) -> None:
    honest = {"a": Timing(10.0, 100.0), "b": Timing(20.0, 200.0)}
    liar = {"c": Timing(1.0, claim)}
    assert updates(SemiSynchronous(1.0), "abc", honest | liar) == {A: 200, B: 100, C: 2000}  # 10 * 200 ms
    assert updates(SemiSynchronous(1.0), "ac", honest | liar) == {A: 100, C: 1000}  # of two, the faster one's
    assert updates(SemiSynchronous(2.0, max_slowness=1.5), "abc", honest | liar) == {A: 60, B: 30, C: 600}
    assert updates(SemiSynchronous(4.0), "c", liar) == {C: 2**31 - 1}  # its own affair
    assert updates(SemiSynchronous(1.0), "a", {"a": Timing(1e-300, 1e300)}) == {A: 2**31 - 1}


@pytest.mark.parametrize("wrong", [0.5, math.inf, "2"])
def test_nobody_is_slower_than_the_median_by_less_than_once(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"semi_sync_max_slowness is .*; allowed: a finite number >= 1"):
        SemiSynchronous(1.0, max_slowness=wrong)


def test_the_first_timings_hold_unless_they_are_to_be_fitted_anew() -> None:
    once, anew = SemiSynchronous(1.0), SemiSynchronous(1.0, recompute_num_updates=True)
    slow, fast = Timing(20.0, 100.0), Timing(10.0, 100.0)
    for scheduler in (once, anew):
        assert updates(scheduler, "a", {"a": slow}) == {A: 5}
    assert updates(once, "a", {"a": fast}) == {A: 5}
    assert updates(anew, "a", {"a": fast}) == {A: 10}
    assert updates(once, "ab", {"a": fast, "b": fast}) == {A: 5, B: 10}  # a late one's first timing


def test_the_first_timing_of_a_learner_that_left_is_forgotten() -> None:
    scheduler = SemiSynchronous(1.0)
    slow, fast = Timing(20.0, 100.0), Timing(10.0, 100.0)
    updates(scheduler, "ab", {"a": slow, "b": slow})
    updates(scheduler, "b", {"b": slow})  # a left
    assert updates(scheduler, "ab", {"a": fast, "b": fast}) == {A: 10, B: 5}


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, None, "2"])
def test_lambda_is_a_number_of_epochs(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"semi_sync_lambda is .*; allowed: a finite number > 0"):
        SemiSynchronous(wrong)
    with pytest.raises(ConfigError, match=r"semi_sync_recompute_num_updates is 1; allowed: True or False"):
        SemiSynchronous(1.0, recompute_num_updates=1)  # type: ignore[arg-type]
