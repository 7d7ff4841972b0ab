from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from sandbox import Sandbox

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.selection import select_cohort

LEARNERS = [LearnerId(f"site-{number:02}") for number in range(20)]


@given(st.integers(1, 20), st.floats(0.01, 1.0), st.integers(1, 20), st.integers())
def test_a_cohort_is_the_share_rounded_up_and_at_least_the_quorum(n: int, ratio: float, quorum: int, seed: int) -> None:
    connected = LEARNERS[:n]
    cohort = select_cohort(connected, ratio, min(quorum, n), random.Random(seed))
    assert cohort == sorted(set(cohort) & set(connected))
    assert len(cohort) == max(-(-ratio * n // 1), min(quorum, n))


def test_the_same_seed_draws_the_same_cohorts() -> None:
    def cohorts(seed: int) -> list[list[LearnerId]]:
        rng = random.Random(seed)
        return [select_cohort(LEARNERS, 0.2, 1, rng) for _ in range(5)]

    assert cohorts(1) == cohorts(1)
    assert cohorts(1) != cohorts(2)


def test_every_learner_is_as_likely_as_any_other() -> None:
    rng = random.Random(7)
    drawn = Counter(learner for _ in range(4000) for learner in select_cohort(LEARNERS, 0.25, 1, rng))
    assert set(drawn) == set(LEARNERS)
    assert all(abs(count - 1000) < 150 for count in drawn.values())  # five standard deviations


def test_only_the_cohort_is_asked_to_train() -> None:
    sandbox = Sandbox(ControllerConfig(participation_ratio=0.5))
    sandbox.join(*LEARNERS)
    sandbox.act(sandbox.federation.model_given())
    sandbox.start(num_learners=20)
    assert len({task.learner for task in sandbox.offers}) == 10
