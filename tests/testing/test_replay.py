"""What was decided in a recorded run is decided again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from testing.replay import CONFIGS, as_far_as_known, read, replayed


@pytest.mark.parametrize("name", CONFIGS)
def test_a_recorded_run_is_decided_as_it_was(name: str) -> None:
    lines = read(name)
    decided = list(replayed(lines, CONFIGS[name]))
    assert len(decided) > 100
    for then, now in decided:
        assert now == then


def test_a_change_of_the_rules_is_seen() -> None:
    other = replace(CONFIGS["rounds"], min_learners=3)
    assert any(then != now for then, now in replayed(read("rounds"), other))


def test_the_runs_have_what_goes_wrong_in_them() -> None:
    happened = {line["happened"]["is"] for name in CONFIGS for line in read(name) if "happened" in line}
    assert {"Start", "Resume", "Failed", "Interrupted", "TimerFired", "Disconnected", "Published"} <= happened


def test_a_field_that_is_new_is_no_other_decision() -> None:
    then = {"commands": [{"is": "Offer", "learner": "a"}], "ids": []}
    assert as_far_as_known({"commands": [{"is": "Offer", "learner": "a", "new": 1}], "ids": []}, then) == then
    assert as_far_as_known({"commands": [{"is": "Offer", "learner": "b"}], "ids": []}, then) != then
    assert as_far_as_known({"commands": [], "ids": []}, then) != then
