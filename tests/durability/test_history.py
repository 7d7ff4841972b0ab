"""The checker of histories: each thing that must not be so is found, in a history written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from durability import soak
from durability.history import History, Log, read
from durability.parties import first_weights, trained_from

from metisfl_async import ControllerConfig
from metisfl_async.core.federation.records import RoundRecord

CONFIG = ControllerConfig()


class Scribe:
    """Writes what a controller and the learner "site-0" do, and reads all of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.controller, self.learner = Log(path, "controller"), Log(path, "site-0")
        self.controller.write("starts")
        self.learner.write("starts")

    def folds(self, task: str, version: int = 0, learner: str = "site-0") -> None:
        self.controller.write("folded", task=task, learner=learner, version=version, weight=1.0)

    def commits(self, version: int) -> None:
        self.controller.write("committing", version=version)
        self.controller.write("committed", version=version)

    def trains(self, task: str, version: int = 0) -> None:
        self.learner.write("trained", task=task, version=version)

    def hears(self, task: str, how: str = "Counted") -> None:
        self.learner.write("told", task=task, how=how)

    def publishes(self, version: int, task: str) -> None:
        """Make a model of one update."""
        self.trains(task, version - 1)
        self.folds(task, version - 1)
        self.commits(version)
        self.hears(task)

    def history(self) -> History:
        return read(self._path)

    def problems(self, rounds: list[RoundRecord] | None = None) -> list[str]:
        return self.history().check(rounds)


@pytest.fixture
def scribe(tmp_path: Path) -> Scribe:
    return Scribe(tmp_path / "log")


@pytest.fixture
def two_models(scribe: Scribe) -> Scribe:
    scribe.publishes(1, "a")
    scribe.publishes(2, "b")
    return scribe


def records(*numbers: int, participants: tuple[str, ...] = ("site-0",)) -> list[RoundRecord]:
    return [
        RoundRecord(number, number - 1, is_published=True, participants=[*participants], learners={})
        for number in numbers
    ]


def test_a_history_in_which_all_is_well(two_models: Scribe) -> None:
    unpublished = [RoundRecord(3, 2)]
    assert two_models.problems([*records(1, 2), *unpublished]) == []
    two_models.controller.write("concluding")
    assert two_models.history().is_over
    assert two_models.history().times_trained() == {("site-0", 0): 1, ("site-0", 1): 1}


def test_a_killed_controller_folds_again_and_goes_on_with_the_version_it_has_committed(two_models: Scribe) -> None:
    two_models.trains("c", 2)
    two_models.folds("c", 2)
    two_models.controller.write("committing", version=3)  # and is killed before it
    two_models.controller.write("starts")
    two_models.controller.write("resumed", version=2)
    two_models.folds("c", 2)
    two_models.controller.write("committing", version=3)  # and is killed after it
    two_models.controller.write("starts")
    two_models.controller.write("resumed", version=3)
    two_models.hears("c", "verdict")
    assert two_models.problems(records(1, 2, 3)) == []


def test_a_killed_learner_may_train_again(two_models: Scribe) -> None:
    two_models.trains("c")
    two_models.learner.write("starts")
    two_models.trains("c")
    assert two_models.problems() == []


def test_a_version_that_is_committed_twice(two_models: Scribe) -> None:
    two_models.commits(2)
    assert "version 2 was committed twice" in two_models.problems()


def test_a_version_that_is_left_out(two_models: Scribe) -> None:
    two_models.commits(4)
    assert two_models.problems() == ["the published versions have gaps: [1, 2, 4]"]


def test_an_update_that_is_in_two_models(two_models: Scribe) -> None:
    two_models.folds("a")
    two_models.commits(3)
    assert two_models.problems() == ["a is in 2 models"]


def test_an_update_that_is_twice_in_one_model(two_models: Scribe) -> None:
    two_models.folds("c")
    two_models.folds("c")
    two_models.commits(3)
    assert two_models.problems() == ["c is in 2 models"]


def test_an_update_that_is_said_to_count_and_is_in_no_model(two_models: Scribe) -> None:
    two_models.hears("c", "answer")
    assert "c was told counted (answer), and is in none" in two_models.problems()


def test_an_update_that_is_said_to_count_before_its_model_is_committed(two_models: Scribe) -> None:
    two_models.folds("c")
    two_models.hears("c", "answer")
    two_models.commits(3)
    assert two_models.problems() == ["c was told counted (answer) before it was so"]


def test_an_update_whose_model_was_lost_with_the_controller(two_models: Scribe) -> None:
    two_models.folds("c")
    two_models.controller.write("committing", version=3)
    two_models.controller.write("starts")
    two_models.controller.write("resumed", version=2)
    two_models.hears("c")
    assert "c was told counted (Counted), and is in none" in two_models.problems()


def test_a_task_that_is_trained_twice_by_one_process(two_models: Scribe) -> None:
    two_models.trains("b", 1)
    assert two_models.problems() == ["b was trained 2 times"]


def test_another_version_than_the_latest_is_resumed(two_models: Scribe) -> None:
    two_models.controller.write("starts")
    two_models.controller.write("resumed", version=1)
    assert two_models.problems() == ["version 1 was resumed after 2"]


def test_a_version_that_nobody_committed_is_resumed(scribe: Scribe) -> None:
    scribe.controller.write("resumed", version=3)
    assert scribe.problems() == ["version 3 was resumed after 0"]


@pytest.mark.parametrize("what", ["folded", "committing", "committed"])
def test_a_federation_that_goes_on_after_its_end(two_models: Scribe, what: str) -> None:
    two_models.controller.write("concluding")
    two_models.controller.write(what, task="c", learner="site-0", version=3, weight=1.0)
    (problem,) = two_models.problems()
    assert problem.startswith("the federation went on after its end")


def test_records_of_other_models(two_models: Scribe) -> None:
    assert two_models.problems(records(1)) == ["the records are of [1], not of [1, 2]"]
    assert two_models.problems(records(1, 2, 2)) == ["the records are of [1, 2, 2], not of [1, 2]"]


def test_a_record_with_other_participants(two_models: Scribe) -> None:
    wrong = [*records(1), *records(2, participants=("site-1",))]
    assert two_models.problems(wrong) == ["record 2 has ['site-1']; in the model are ['site-0']"]


# --- what the soak looks at beside it --------------------------------------------------------------------------------


class Steady(soak.Party):
    """A learner that nobody has killed."""

    def __init__(self) -> None:
        self.name, self.kills, self.may_be_given_up = "site-0", 0, False


def test_an_update_of_a_learner_that_nobody_killed_is_lost(two_models: Scribe) -> None:
    two_models.trains("c", 2)
    assert soak._wrong(two_models.history(), CONFIG, [Steady()]) == ["c of site-0 is lost: nothing was said"]
    assert soak._wrong(two_models.history(), CONFIG, []) == []
    two_models.learner.write("dropped", task="c", why="the federation is over")
    assert soak._wrong(two_models.history(), CONFIG, [Steady()]) == []


def test_a_model_of_too_few_updates(two_models: Scribe) -> None:
    config = replace(CONFIG, min_learners=soak.LEARNERS)
    expected = [f"version {version} has fewer than min_learners updates" for version in (1, 2)]
    assert soak._wrong(two_models.history(), config, []) == expected


def test_a_final_model_that_is_not_made_of_what_counted(two_models: Scribe) -> None:
    once = trained_from(first_weights(), 1)
    right, wrong = (arrays[0].tolist() for arrays in (trained_from(once, 1), once))
    of_rounds = [record.to_dict() for record in records(1, 2)]
    two_models.controller.write("result", model=right, rounds=of_rounds)
    assert soak._wrong(two_models.history(), CONFIG, []) == []
    two_models.controller.write("result", model=wrong, rounds=of_rounds)
    assert soak._wrong(two_models.history(), CONFIG, []) == [f"the final model is {wrong}, not {right}"]
