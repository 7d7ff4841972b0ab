"""Who contributed to a sum, as a header says it: what is wrong with it is named."""

from __future__ import annotations

from typing import Any

import pytest

from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.strategies.aggregation.contributors import (
    MOST_CONTRIBUTORS,
    Contributor,
    check_evaluators,
    contributors_of,
    entries_of,
    evaluators_in,
    num_learners_of,
    said_of,
    without_metrics,
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


def test_metrics_can_be_left_out_and_the_rest_stays() -> None:
    contributors = {"a": Contributor(40.0, 1, {"loss": 0.5}), "north": Contributor(3e9, 4)}
    assert without_metrics(contributors) == {"a": Contributor(40.0), "north": Contributor(3e9, 4)}


def test_what_may_be_left_out_has_its_default() -> None:
    assert contributors_of(_metadata({"a": {"weight": 2}}), FACTOR, 1e9, 10) == {"a": Contributor(2.0)}


@pytest.mark.parametrize(
    ("contributors", "message"),
    [
        (None, "the contributors of the sum are None; allowed: a map of 1 to 500"),
        ({}, "the contributors of the sum are 0 of them"),
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
        ({"": {"weight": 1.0}}, "a name of contributors is ''; allowed: 1 to 1024 printable characters"),
        ({"a\n": {"weight": 1.0}}, "a name of contributors is"),
        ({1025 * "a": {"weight": 1.0}}, "a name of contributors is"),
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


# --- evaluations ---------------------------------------------------------------------------------------------------


def test_who_evaluated_is_written_and_read_again() -> None:
    evaluators = {"a": Contributor(0.0, 1, {"auc": 0.5}), "north": Contributor(30.0, 4, {"auc": 1.0})}
    assert evaluators_in(entries_of(evaluators)) == evaluators
    assert evaluators_in({}) == {}


def test_an_evaluator_may_have_no_weight_and_its_metrics_any_value() -> None:
    said = {"loss": float("nan"), "auc": float("-inf"), "num_examples": 0.0}
    check_evaluators({"a": Contributor(0.0, 1, said), "b": Contributor(10.0, 1, said)}, FACTOR, 10.0, 2)
    check_evaluators({"inner": Contributor(30.0, 3, {"num_examples": 30.0})}, FACTOR, 10.0, 3)


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (Contributor(-1.0, 1, {"auc": 1.0}), "contributors['a'].weight is -1.0; allowed: a number >= 2**-53 and <= 10"),
        (Contributor(1e-300, 1, {"auc": 1.0}), "contributors['a'].weight"),
        (Contributor(float("nan"), 1, {"auc": 1.0}), "contributors['a'].weight is nan"),
        (Contributor(20.5, 2, {"auc": 1.0}), "<= 20, max_weight for each of its learners"),
        (Contributor(1.0, 0, {"auc": 1.0}), "contributors['a'].num_learners"),
        (Contributor(1.0, 2**40, {"auc": 1.0}), "contributors['a'].num_learners"),
        (
            Contributor(1.0, 11, {"auc": 1.0}),
            "the evaluation is of 11 learners; allowed: at most max_relayed_learners=10",
        ),
        (Contributor(1.0), "contributors['a'].metrics is {}; allowed: at least one"),
        (Contributor(1.0, 1, {"num_examples": -1.0}), "['num_examples'] is -1.0; allowed: a number >= 0 and <= 10"),
        (Contributor(1.0, 1, {"num_examples": 10.5}), "['num_examples'] is 10.5"),
        (Contributor(1.0, 1, {"num_examples": float("nan")}), "['num_examples'] is nan"),
    ],
)
def test_an_evaluator_that_cannot_be_is_refused_by_name(evaluator: Contributor, message: str) -> None:
    with pytest.raises(UnexpectedMessage) as refused:
        check_evaluators({"a": evaluator}, FACTOR, 10.0, 10)
    assert message in str(refused.value)


def test_where_all_weigh_alike_an_evaluator_weighs_no_more_whatever_it_measured_on() -> None:
    check_evaluators({"inner": Contributor(2.0, 2, {"num_examples": 900.0})}, "NumParticipants", 1e9, 5)
    with pytest.raises(UnexpectedMessage, match="<= 2, max_weight for each"):
        check_evaluators({"inner": Contributor(2.5, 2, {"auc": 0.5})}, "NumParticipants", 1e9, 5)


def test_more_evaluators_than_one_message_names_are_refused() -> None:
    one = Contributor(1.0, 1, {"auc": 0.5})
    many = {str(number): one for number in range(MOST_CONTRIBUTORS)}
    check_evaluators(many, FACTOR, 1e9, 500)
    with pytest.raises(
        UnexpectedMessage, match="the contributors of the evaluation are 501 of them; allowed: a map of"
    ):
        check_evaluators({**many, "another": one}, FACTOR, 1e9, 10_000)
    with pytest.raises(UnexpectedMessage, match="evaluations of others came; allowed only from relays"):
        check_evaluators(many, FACTOR, 1e9, 0)


def _metadata(contributors: Any) -> dict[str, Any]:
    return {"scaling_factor": FACTOR, "contributors": contributors}
