"""Evaluations of learners below relays: the mean is that of the same learners without relays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox import A, B, C, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError, UnexpectedMessage
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.evaluation import Report, mean_of, measured, summed_up
from metisfl_async.core.federation.events import LearnerEvaluated
from metisfl_async.core.federation.inputs import Evaluated
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.aggregation.contributors import Contributor

CONFIG = ControllerConfig(max_relayed_learners=100)

number = st.floats(-1e6, 1e6)
metrics = st.dictionaries(st.sampled_from(["loss", "auc", "f1"]), number, min_size=1)
examples = st.integers(0, 1000).map(float)
weight = st.just(0.0) | st.floats(0.5, 1e6)
evaluator = st.builds(Contributor, weight, metrics=metrics)
counted = st.builds(lambda each, count: said(each, count), evaluator, examples)


def said(each: Contributor, count: float) -> Contributor:
    """Say how many examples it was, too."""
    return Contributor(each.weight, each.num_learners, {**each.metrics, "num_examples": count})


def record_of(evaluators: Mapping[str, Contributor], config: ControllerConfig = CONFIG) -> RoundRecord:
    """Record them as learners of this controller; those of one region, "north/a", as what its relay says."""
    regions: dict[str, dict[str, Contributor]] = {}
    record = RoundRecord(1, 0)
    for name, each in evaluators.items():
        region, _, below = name.partition("/")
        if below:
            regions.setdefault(region, {})[below] = each
        else:
            record.learners[name] = LearnerRecord(weight=each.weight, evaluation_metrics=each.metrics)
    for region, those in regions.items():
        of_region = measured({}, those, config)
        record.learners[region] = LearnerRecord(
            evaluation_metrics=of_region.metrics, evaluation_metadata=of_region.metadata
        )
    record.close({})
    return record


def of_names(names: list[str], evaluators: list[Contributor]) -> RoundRecord:
    return record_of({names[place].format(place): each for place, each in enumerate(evaluators)})


NAMES = st.lists(
    st.sampled_from(["{}", "north/{}", "south/{}", "south/inner/{}", "south/other/{}"]), min_size=12, max_size=12
)


@given(
    NAMES,
    st.lists(evaluator, max_size=12) | st.lists(counted, max_size=12) | st.lists(evaluator | counted, max_size=12),
)
def test_relays_change_no_mean(names: list[str], evaluators: list[Contributor]) -> None:
    flat, tree = of_names(["{}"] * 12, evaluators), of_names(names, evaluators)
    assert tree.evaluation_metrics == pytest.approx(flat.evaluation_metrics, rel=1e-12)
    assert tree.evaluation_weighted_by == flat.evaluation_weighted_by
    assert sorted(map(str, tree.evaluations.values())) == sorted(map(str, flat.evaluations.values()))


@given(st.lists(counted, min_size=1, max_size=6), st.lists(counted, min_size=1, max_size=6))
def test_those_of_a_region_may_be_said_at_once_where_all_report_the_same(
    north: list[Contributor], south: list[Contributor]
) -> None:
    with_loss = [[each for each in region if "loss" in each.metrics] for region in (north, south)]
    only_loss = [
        [
            Contributor(each.weight, 1, {name: each.metrics[name] for name in ("loss", "num_examples")})
            for each in region
        ]
        for region in with_loss
    ]
    flat = mean_of([each for region in only_loss for each in region])
    at_once = mean_of([summed_up(region) for region in only_loss if region])
    if flat.weighted_by == "num_examples":
        assert at_once.metrics == pytest.approx(flat.metrics, rel=1e-9, abs=1e-9)
        assert at_once.weighted_by == flat.weighted_by


def test_nobody_measured_nothing() -> None:
    assert summed_up([]) == Contributor(0.0, 0, {})
    assert mean_of([]).weighted_by == ""


def test_one_hospital_that_does_not_say_how_many_weighs_all_by_their_scaling_factors() -> None:
    record = record_of(
        {
            "north/a": Contributor(3.0, 1, {"auc": 1.0, "num_examples": 10.0}),
            "north/b": Contributor(1.0, 1, {"auc": 0.0, "num_examples": 990.0}),
            "c": Contributor(4.0, 1, {"auc": 0.5}),
        }
    )
    assert (record.evaluation_metrics, record.evaluation_weighted_by) == ({"auc": 5.0 / 8.0}, "scaling_factor")
    assert record.learners["north"].evaluation_metrics == {"auc": 0.01, "num_examples": 1000.0}
    assert record.evaluations == {
        "c": {"auc": 0.5},
        "north/a": {"auc": 1.0, "num_examples": 10.0},
        "north/b": {"auc": 0.0, "num_examples": 990.0},
    }


def test_where_no_weight_is_known_each_hospital_counts_once_and_not_each_relay() -> None:
    below = {f"north/{number}": Contributor(0.0, 1, {"auc": 1.0}) for number in range(3)}
    record = record_of({**below, "c": Contributor(0.0, 1, {"auc": 0.0})})
    assert (record.evaluation_metrics, record.evaluation_weighted_by) == ({"auc": 0.75}, "nothing")
    stands_for_three = record_of({"north/inner": Contributor(0.0, 3, {"auc": 1.0}), "c": below["north/0"]})
    assert stands_for_three.evaluation_metrics == {"auc": 1.0}
    means_alone = LearnerRecord(num_relayed=3, evaluation_metrics={"auc": 1.0})
    record = RoundRecord(1, 0, learners={"north": means_alone, "c": LearnerRecord(evaluation_metrics={"auc": 0.0})})
    record.close({})
    assert record.evaluation_metrics == {"auc": 0.75}


def test_of_those_that_dial_a_relay_with_others_below_speaks_for_them() -> None:
    record = record_of(
        {
            "inner/a": Contributor(3.0, 1, {"auc": 1.0, "num_examples": 1.0}),
            "inner/b": Contributor(2.0, 1, {"auc": 0.0, "num_examples": 3.0}),
            "c": Contributor(1.0, 1, {"auc": 0.5}),
        }
    )
    record.learners["silent"] = LearnerRecord()
    assert record.dialled_evaluators({"c": 9.0}) == {
        "c": Contributor(1.0, 1, {"auc": 0.5}),
        "inner": Contributor(5.0, 2, {"auc": 0.25, "num_examples": 4.0}),
    }


# --- what comes is looked at ---------------------------------------------------------------------------------------


def test_the_means_of_a_relay_are_made_here_and_its_names_are_plain() -> None:
    below = {"a": Contributor(1.0, 1, {"auc\n": 1.0}), "b": Contributor(3.0, 2, {"auc\n": math.nan, "loss": 1.0})}
    found = measured({}, below, CONFIG)
    assert found.metrics == pytest.approx({r"auc\n": math.nan, "loss": 1.0}, nan_ok=True)
    assert found.num_learners == 3
    assert found.metadata["contributors"] == {
        "a": {"weight": 1.0, "num_learners": 1, "metrics": {r"auc\n": 1.0}},
        "b": {
            "weight": 3.0,
            "num_learners": 2,
            "metrics": {r"auc\n": pytest.approx(math.nan, nan_ok=True), "loss": 1.0},
        },
    }


def test_a_learner_speaks_for_itself() -> None:
    assert measured({"auc": 0.5, "num_examples": 3.0}, {}, CONFIG) == Report({"auc": 0.5, "num_examples": 3.0}, {}, 1)
    with pytest.raises(ConfigError, match=r"num_examples is -1.0; allowed: a number >= 0 and <= max_weight=10"):
        measured({"num_examples": -1.0}, {}, ControllerConfig(max_weight=10))
    with pytest.raises(UnexpectedMessage, match="came with metrics and with contributors; allowed: one of them"):
        measured({"auc": 0.5}, {"a": Contributor(1.0, 1, {"auc": 1.0})}, CONFIG)
    with pytest.raises(UnexpectedMessage, match="allowed only from relays, with max_relayed_learners > 0"):
        measured({}, {"a": Contributor(1.0, 1, {"auc": 1.0})}, ControllerConfig())


# --- a round in which relays evaluate ------------------------------------------------------------------------------


def evaluated_by(sandbox: Sandbox, learner: LearnerId, contributors: Mapping[str, Contributor]) -> None:
    sandbox.hear(Evaluated(learner, sandbox.task(learner).id, {}, contributors))


def scored(*scores: float) -> dict[str, Contributor]:
    return {str(place): Contributor(1.0, 1, {"auc": score}) for place, score in enumerate(scores)}


def test_the_record_and_the_event_of_a_relay_say_who_measured_what() -> None:
    sandbox = training(A, B, config=CONFIG)
    sandbox.train(A, B)
    sandbox.publish()
    evaluated_by(sandbox, A, scored(0.0, 0.25, 0.75, 1.0))
    sandbox.evaluate(B, auc=0.0)
    (record,) = sandbox.records
    assert sandbox.events_of(LearnerEvaluated) == [
        LearnerEvaluated(1, A, {"auc": 0.5}, 4),
        LearnerEvaluated(1, B, {"auc": 0.0}),
    ]
    assert record.evaluations[f"{A}/2"] == {"auc": 0.75}
    assert record.evaluation_metrics == {"auc": 0.4}
    assert RoundRecord.from_dict(record.to_dict()) == record


def test_an_evaluation_of_more_than_is_allowed_is_its_relays_failure() -> None:
    sandbox = training(A, B, config=ControllerConfig(max_relayed_learners=3))
    sandbox.train(A, B)
    sandbox.publish()
    evaluated_by(sandbox, A, scored(1.0, 1.0, 1.0, 1.0))
    sandbox.evaluate(B, auc=0.25)
    (record,) = sandbox.records
    (failure,) = record.learners[A].failures
    assert (failure.task, failure.type) == ("evaluate", "UnexpectedMessage")
    assert failure.message == "the evaluation is of 4 learners; allowed: at most max_relayed_learners=3"
    assert record.evaluation_metrics == {"auc": 0.25}


@pytest.mark.parametrize(
    ("cutoff_score", "below", "reason"),
    [
        ("median", (0.9, 0.9, 0.95), "the median of auc=0.9"),  # of the three below, and two others
        ("median", (0.9, 0.0, 0.95), None),
        ("quorum", (9.0, 9.0, 9.0), None),  # a relay is one, as for min_learners
    ],
)
def test_a_median_is_that_of_the_learners_and_a_quorum_that_of_those_who_dial(
    cutoff_score: Any, below: tuple[float, ...], reason: str | None
) -> None:
    config = ControllerConfig(max_relayed_learners=3, min_learners=2, cutoff_score=cutoff_score)
    signals = TerminationSignals(evaluation_metric="auc", evaluation_metric_cutoff_score=0.8)
    sandbox = training(A, B, C, config=config, signals=signals)
    sandbox.train(A, B, C)
    sandbox.publish()
    evaluated_by(sandbox, A, scored(*below))
    sandbox.evaluate(B, auc=0.5)
    sandbox.evaluate(C, auc=0.5)
    if reason is None:
        assert sandbox.finish is None
    else:
        assert sandbox.finish is not None
        assert sandbox.finish.reason == f"{reason} reached evaluation_metric_cutoff_score=0.8"
        assert sandbox.finish.ending is Ending.CUTOFF_SCORE


def test_the_best_model_is_the_one_that_scores_best_over_all_hospitals() -> None:
    sandbox = training(A, B, config=ControllerConfig(max_relayed_learners=3, best_metric="auc"))
    for below, alone in ((0.5, 0.9), (0.6, 0.7)):  # of relays alone, the first would be better
        sandbox.train(A, B)
        sandbox.publish()
        evaluated_by(sandbox, A, scored(below, below, below))
        sandbox.evaluate(B, auc=alone)
    best = sandbox.federation.standing.best
    assert best is not None
    assert best.model_version == 2
    assert best.score == pytest.approx(0.625)
