from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox import Sandbox

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.selection import Scheduled, ScheduledCardinality

LEARNERS = [LearnerId(f"site-{number:02}") for number in range(20)]


@given(st.integers(1, 20), st.floats(0.01, 1.0), st.integers(1, 20), st.integers())
def test_a_cohort_is_the_share_rounded_up_and_at_least_the_quorum(n: int, ratio: float, quorum: int, seed: int) -> None:
    connected = LEARNERS[:n]
    cohort = Scheduled(ratio, min(quorum, n)).select(connected, 0, random.Random(seed))
    assert list(cohort) == sorted(set(cohort) & set(connected))
    assert len(cohort) == max(-(-ratio * n // 1), min(quorum, n))


def test_the_same_seed_draws_the_same_cohorts() -> None:
    def cohorts(seed: int) -> list[list[LearnerId]]:
        rng = random.Random(seed)
        return [list(Scheduled(0.2, 1).select(LEARNERS, 0, rng)) for _ in range(5)]

    assert cohorts(1) == cohorts(1)
    assert cohorts(1) != cohorts(2)


def test_every_learner_is_as_likely_as_any_other() -> None:
    rng = random.Random(7)
    drawn = Counter(learner for _ in range(4000) for learner in Scheduled(0.25, 1).select(LEARNERS, 0, rng))
    assert set(drawn) == set(LEARNERS)
    assert all(abs(count - 1000) < 150 for count in drawn.values())  # five standard deviations


def test_only_the_cohort_is_asked_to_train() -> None:
    sandbox = Sandbox(ControllerConfig(participation_ratio=0.5))
    sandbox.join(*LEARNERS)
    sandbox.give_model()
    sandbox.start(num_learners=20)
    assert len({task.learner for task in sandbox.offers}) == 10


@pytest.mark.parametrize(
    ("num_idle", "num_busy", "expected"), [(20, 0, 10), (16, 4, 6), (10, 10, 0), (1, 9, 0), (3, 0, 2)]
)
def test_without_rounds_the_share_is_of_those_at_work_at_a_time(num_idle: int, num_busy: int, expected: int) -> None:
    idle = LEARNERS[:num_idle]
    chosen = Scheduled(0.5, 1).select(idle, num_busy, random.Random(1))
    assert len(chosen) == expected
    assert set(chosen) <= set(idle)


def test_only_where_fewer_than_two_are_scheduled_do_all_active_ones_make_the_mean() -> None:
    selector = ScheduledCardinality(1.0, 1)
    a, b, c = LEARNERS[:3]
    assert list(selector.others({a}, {a, b, c})) in ([b, c], [c, b])
    assert list(selector.others(set(), {b})) == [b]
    assert list(selector.others({a, b}, {a, b, c})) == []
    assert list(Scheduled(1.0, 1).others({a}, {a, b, c})) == []
