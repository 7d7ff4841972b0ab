from __future__ import annotations

from federations import Adds, session_of

from metisfl_async import FederationResult, LearnerRecord, RoundRecord
from metisfl_async.driver.participation import Participation, participation_of, seldom
from metisfl_async.learner.learner import Config, TrainResult


def rounds_of(*rounds: str, asked: str = "abcd", in_rounds: bool = True) -> list[RoundRecord]:
    """Make records, each of a text with a letter for each learner that counted."""
    return [
        RoundRecord(
            number,
            number - 1,
            is_published=True,
            in_rounds=in_rounds,
            participants=list(counted),
            learners={name: LearnerRecord() for name in sorted({*asked, *counted})},
        )
        for number, counted in enumerate(rounds, start=1)
    ]


def test_who_was_asked_and_who_counted_is_counted() -> None:
    records = [*rounds_of("ab", "ac", "aa"), RoundRecord(4, 3, learners={"e": LearnerRecord()})]
    assert participation_of(records) == {
        "a": Participation(3, 3),
        "b": Participation(3, 1),
        "c": Participation(3, 1),
        "d": Participation(3, 0),
    }
    assert seldom(records) == ["b", "c", "d"]
    assert participation_of([]) == {}
    assert seldom([]) == []


def test_a_learner_that_was_there_for_few_rounds_is_named_where_all_are_asked() -> None:
    assert seldom(rounds_of("abc", "ab", "ab", "ab", asked="")) == ["c"]


def test_learners_that_were_drawn_for_few_rounds_are_not() -> None:
    assert seldom(rounds_of("ab", "cd", "ac", "bd", "ab", asked="")) == []


def test_without_rounds_those_are_named_that_failed_more_often_than_not() -> None:
    assert seldom(rounds_of("a", "b", "a", "a", "a", asked="", in_rounds=False)) == []
    assert seldom(rounds_of("a", "b", "a", "a", "a", asked="c", in_rounds=False)) == ["c"]


def test_who_seldom_counts_below_a_relay_is_named_too() -> None:
    records = rounds_of("ar", "ar", "ar", asked="")
    for record, names in zip(records, ["xy", "x", "x"], strict=True):
        said = {"contributors": {name: {"weight": 1.0} for name in names}}
        record.learners["r"] = LearnerRecord(num_relayed=len(names), train_metadata=said)  # type: ignore[arg-type]
    assert participation_of(records) == {
        "a": Participation(3, 3),
        "r": Participation(3, 3),
        "r/x": Participation(3, 3),
        "r/y": Participation(1, 1),
    }
    assert seldom(records) == ["r/y"]


def test_only_some_are_named_in_the_text() -> None:
    result = FederationResult(None, 2, rounds_of("a", "a", asked="bcdef"), "enough")
    assert (
        repr(result)
        == "<FederationResult: 2 rounds, few updates of b (0 of 2), c (0 of 2), d (0 of 2), 2 more, 'enough'>"
    )


class Fails(Adds):
    def train(self, parameters: object, config: Config) -> TrainResult:
        raise ValueError("no data")


async def test_a_site_that_never_counted_is_named_in_the_result() -> None:
    result = await session_of([Adds(1), Adds(2), Fails(3)], rounds=2).run()
    assert "few updates of learner-2 (0 of 2)" in repr(result)
    data = result.to_dict()
    assert data["seldom"] == ["learner-2"]
    assert data["participation"]["learner-2"] == {"asked": 2, "counted": 0}
    assert data["participation"]["learner-0"] == {"asked": 2, "counted": 2}
