"""Who contributed to a sum, as a header says it: what is wrong with it is named."""

from __future__ import annotations

from typing import Any

import pytest

from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.strategies.aggregation.contributors import (
    MOST_CONTRIBUTORS,
    Contributor,
    contributors_of,
    num_learners_of,
    said_of,
)

FACTOR = "NumTrainingExamples"


def test_what_is_said_is_read_again() -> None:
    contributors = {"a": Contributor(40.0, 1, {"loss": 0.5}), "north": Contributor(3e9, 4)}
    said = said_of(contributors, FACTOR)
    assert contributors_of(said, FACTOR, 1e9, 10) == contributors
    assert num_learners_of(said) == 5


def test_learners_behind_a_relay_below_count_too() -> None:
    contributors = {"a": Contributor(40.0), "north": Contributor(3e9, 4)}
    assert num_learners_of(said_of(contributors, FACTOR)) == 5


def test_what_may_be_left_out_has_its_default() -> None:
    assert contributors_of(_metadata({"a": {"weight": 2}}), FACTOR, 1e9, 10) == {"a": Contributor(2.0)}


@pytest.mark.parametrize(
    ("contributors", "message"),
    [
        (None, "the contributors of a sum are None; allowed: a map of 1 to 500"),
        ({}, "the contributors of a sum are 0 of them"),
        (
            {str(number): {"weight": 1.0} for number in range(MOST_CONTRIBUTORS + 1)},
            "are 501 of them; allowed: a map of 1",
        ),
        ({"a": 3.0}, "contributors['a']"),
        ({"a": {}}, "contributors['a'].weight"),
        ({"a": {"weight": True}}, "contributors['a'].weight"),
        ({"a": {"weight": 0.0}}, "contributors['a'].weight"),
        ({"a": {"weight": float("nan")}}, "contributors['a'].weight"),
        ({"a": {"weight": 11.0}}, "<= 10, max_weight for each of its learners"),
        ({"a": {"weight": 21.0, "num_learners": 2}}, "<= 20, max_weight for each of its learners"),
        ({"a": {"weight": 1.0, "num_learners": 0}}, "contributors['a'].num_learners"),
        ({"a": {"weight": 1.0, "num_learners": 2.0}}, "contributors['a'].num_learners"),
        ({"a": {"weight": 1.0, "num_learners": 2**32}}, "contributors['a'].num_learners"),
        (
            {"a": {"weight": 1.0, "num_learners": 4}, "b": {"weight": 1.0, "num_learners": 7}},
            "the sum is of 11 learners",
        ),
        ({"a": {"weight": 1.0, "metrics": {"loss": "low"}}}, "contributors['a'].metrics"),
    ],
)
def test_what_cannot_be_is_refused_by_name(contributors: object, message: str) -> None:
    with pytest.raises(UnexpectedMessage) as refused:
        contributors_of(_metadata(contributors), FACTOR, 10.0, 10)
    assert message in str(refused.value)


def test_where_all_weigh_alike_nobody_weighs_more() -> None:
    two = {"north": Contributor(2.0, 2)}
    assert contributors_of(said_of(two, "NumParticipants"), "NumParticipants", 1e9, 5) == two
    more = said_of({"north": Contributor(2.5, 2)}, "NumParticipants")
    with pytest.raises(UnexpectedMessage, match="<= 2, max_weight for each"):
        contributors_of(more, "NumParticipants", 1e9, 5)


def test_weights_that_mean_something_else_are_refused() -> None:
    message = "the sum is weighted by scaling_factor 'NumTrainingExamples'; allowed: that of this controller, 'mine'"
    with pytest.raises(UnexpectedMessage, match=message):
        contributors_of(_metadata({"a": {"weight": 1.0}}), "mine", 10.0, 10)


def _metadata(contributors: Any) -> dict[str, Any]:
    return {"scaling_factor": FACTOR, "contributors": contributors}
