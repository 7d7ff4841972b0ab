from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.federation.records import Failure, LearnerRecord, RoundRecord

text = st.text(max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.dictionaries(text, number, max_size=3)
maybe = st.none() | number
facts: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
parts = st.builds(
    LearnerRecord,
    train_state=text,
    **dict.fromkeys(("weight", "acknowledge_ms", "train_ms", "staging_ms", "aggregation_ms", "evaluation_ms"), maybe),
    **dict.fromkeys(("sent_ms", "ended_ms", "evaluation_sent_ms"), maybe),
    **dict.fromkeys(("bytes_sent", "bytes_received"), st.integers(0)),
    train_metrics=metrics,
    train_metadata=st.dictionaries(text, facts, max_size=3),
    evaluation_metrics=metrics,
    evaluation_metadata=st.dictionaries(text, facts, max_size=3),
    failures=st.lists(st.builds(Failure, text, text, text), max_size=2),
)
records = st.builds(
    RoundRecord,
    number=st.integers(1),
    model_version=st.integers(0),
    is_published=st.booleans(),
    in_rounds=st.booleans(),
    **dict.fromkeys(("started_ms", "duration_ms", "dispatch_ms", "train_ms"), number),
    **dict.fromkeys(("aggregation_ms", "evaluation_dispatch_ms", "evaluation_ms"), number),
    **dict.fromkeys(("bytes_sent", "bytes_received"), st.integers(0)),
    participants=st.lists(text, max_size=3),
    train_metrics=metrics,
    evaluation_metrics=metrics,
    evaluation_weighted_by=st.sampled_from(["num_examples", "scaling_factor", "nothing", ""]),
    learners=st.dictionaries(text, parts, max_size=3),
)


@pytest.mark.slow
@given(records)
def test_a_record_comes_back_from_json_as_it_was(record: RoundRecord) -> None:
    assert RoundRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@given(records)
def test_what_to_dict_gave_and_what_from_dict_took_are_not_shared_with_the_record(record: RoundRecord) -> None:
    data = record.to_dict()
    taken = RoundRecord.from_dict(data)
    record.learners["another"] = LearnerRecord(failures=[Failure("train", "lost", "it left")])
    record.participants.append("another")
    assert taken.to_dict() == data


def closed(weights: dict[str, float], **learners: LearnerRecord) -> RoundRecord:
    record = RoundRecord(1, 0, learners=learners)
    record.close(weights)
    return record


def test_the_evaluation_of_a_learner_that_left_since_counts_with_its_own_weight() -> None:
    record = closed(
        {"b": 1.0},
        a=LearnerRecord(weight=3.0, evaluation_metrics={"accuracy": 1.0}),
        b=LearnerRecord(evaluation_metrics={"accuracy": 0.0}),  # its update did not count, an earlier one did
    )
    assert record.evaluation_metrics == {"accuracy": 0.75}


def test_a_round_was_cut_if_nobody_had_evaluated_when_learners_were_told_to_stop() -> None:
    told = LearnerRecord(failures=[Failure("evaluate", "cancelled", "the federation ended")])
    assert RoundRecord(1, 0, learners={"a": told}).was_cut
    assert not RoundRecord(1, 0, learners={"a": told}, evaluation_metrics={"accuracy": 1.0}).was_cut
    assert not RoundRecord(1, 0, learners={"a": LearnerRecord()}).was_cut


def test_closing_adds_up_bytes_and_lists_whose_updates_counted() -> None:
    record = closed(
        {},
        a=LearnerRecord(train_state="counted", weight=1.0, bytes_sent=1, bytes_received=10),
        b=LearnerRecord(train_state="failed", bytes_sent=2),
        c=LearnerRecord(train_state="counted", weight=1.0, bytes_sent=4, bytes_received=30),
    )
    assert (record.bytes_sent, record.bytes_received) == (7, 40)


def test_training_metrics_are_means_weighted_by_the_updates_own_weights() -> None:
    record = closed(
        {"a": 100.0},
        a=LearnerRecord(weight=1.0, train_metrics={"loss": 4.0}),
        b=LearnerRecord(weight=3.0, train_metrics={"loss": 8.0, "auc": 0.5}),
        c=LearnerRecord(train_metrics={"loss": 1000.0}),
    )
    assert record.train_metrics == {"loss": 7.0, "auc": 0.5}


def test_evaluations_of_learners_without_a_known_weight_do_not_count_where_others_have_one() -> None:
    record = closed(
        {"a": 1.0, "b": 3.0, "elsewhere": 5.0},
        a=LearnerRecord(evaluation_metrics={"accuracy": 0.0}),
        b=LearnerRecord(evaluation_metrics={"accuracy": 1.0}),
        c=LearnerRecord(evaluation_metrics={"accuracy": 0.5}),
        d=LearnerRecord(),
    )
    assert record.evaluation_metrics == {"accuracy": 0.75}


def test_evaluations_count_alike_where_nobody_has_a_known_weight() -> None:
    record = closed(
        {"d": 3.0},
        a=LearnerRecord(evaluation_metrics={"accuracy": 0.0}),
        b=LearnerRecord(evaluation_metrics={"accuracy": 1.0}),
        d=LearnerRecord(),
    )
    assert record.evaluation_metrics == {"accuracy": 0.5}


def test_a_round_without_reports_has_no_metrics() -> None:
    record = closed({"a": 1.0}, a=LearnerRecord(), b=LearnerRecord(train_state="counted", weight=1.0))
    assert (record.train_metrics, record.evaluation_metrics) == ({}, {})


def test_the_summary_is_one_line_and_says_whether_a_model_came_of_it() -> None:
    record = RoundRecord(
        3,
        2,
        is_published=True,
        duration_ms=1234.5,
        participants=["a"],
        train_metrics={"loss": 0.123456},
        evaluation_metrics={"accuracy": 0.75},
        learners={"a": LearnerRecord(), "b": LearnerRecord()},
    )
    facts = "1 of 2 updates in 1.23 s, train loss 0.1235, evaluation accuracy 0.75"
    assert record.summary() == facts
    record.is_published = False
    assert record.summary() == f"not published: {facts}"


def test_those_below_a_relay_are_named_after_it_and_counted_one_by_one() -> None:
    said = {"contributors": {"site-0": {"weight": 1.0, "num_learners": 1}, "inner": {"weight": 5.0, "num_learners": 3}}}
    record = RoundRecord(
        1,
        0,
        is_published=True,
        participants=["north", "site-0", "site-1"],
        learners={
            "north": LearnerRecord(num_relayed=4, train_metadata=said),  # type: ignore[arg-type]
            "site-0": LearnerRecord(train_metadata=said),  # type: ignore[arg-type] # whatever it says: it is no relay
        },
    )
    assert record.contributors == {"site-0": 1, "site-1": 1, "north/site-0": 1, "north/inner": 3}
    assert record.num_learners == 6
    assert record.summary() == "3 of 3 updates of 6 learners in 0.00 s"


def test_the_summary_without_rounds_counts_updates_and_says_how_old_their_models_were() -> None:
    learners = {"a": LearnerRecord(staleness=2), "b": LearnerRecord(staleness=9), "c": LearnerRecord()}
    record = RoundRecord(8, 7, True, participants=["a", "a", "b"], learners=learners)
    assert record.summary() == "3 of 4 updates in 0.00 s, staleness 9"


def test_evaluations_count_by_their_examples_where_all_say_how_many() -> None:
    record = closed(
        {},
        a=LearnerRecord(weight=900.0, evaluation_metrics={"accuracy": 1.0, "num_examples": 10.0}),
        b=LearnerRecord(weight=100.0, evaluation_metrics={"accuracy": 0.0, "num_examples": 990.0}),
        c=LearnerRecord(weight=100.0, evaluation_metrics={"num_examples": 0.0}),
        d=LearnerRecord(weight=7.0),  # it did not evaluate
    )
    assert record.evaluation_metrics == {"accuracy": 0.01}
    assert record.evaluation_weighted_by == "num_examples"


def test_evaluations_count_by_scaling_factors_where_one_does_not_say_how_many() -> None:
    record = closed(
        {},
        a=LearnerRecord(weight=3.0, evaluation_metrics={"accuracy": 1.0, "num_examples": 10.0}),
        b=LearnerRecord(weight=1.0, evaluation_metrics={"accuracy": 0.0}),
    )
    assert (record.evaluation_metrics, record.evaluation_weighted_by) == ({"accuracy": 0.75}, "scaling_factor")


def test_evaluations_of_no_examples_at_all_are_as_if_nobody_said() -> None:
    record = closed({}, a=LearnerRecord(evaluation_metrics={"accuracy": 1.0, "num_examples": 0.0}))
    assert (record.evaluation_metrics, record.evaluation_weighted_by) == ({"accuracy": 1.0}, "nothing")
    assert closed({}, a=LearnerRecord()).evaluation_weighted_by == ""


EVIL = "<script>\x1b]0;mine\x07"
SHOWN = RoundRecord(
    3,
    2,
    is_published=True,
    participants=["a"],
    duration_ms=1234.0,
    evaluation_metrics={"accuracy": 0.912345},
    learners={
        "a": LearnerRecord(
            train_state="counted", weight=900.0, train_metrics={"loss": 0.5}, evaluation_metrics={"f1": 1.0}
        ),
        EVIL: LearnerRecord(train_state="failed", failures=[Failure("train", EVIL, "no data")]),
    },
)


def test_records_are_short_to_look_at() -> None:
    assert repr(SHOWN) == "<RoundRecord: round 3: 1 of 2 updates in 1.23 s, evaluation accuracy 0.9123>"
    assert repr(RoundRecord(3, 2, in_rounds=False)).startswith("<RoundRecord: model 3: not published: 0 of 0")
    part, failed = SHOWN.learners.values()
    assert repr(part) == "<LearnerRecord: counted, weight 900, train loss 0.5, evaluation f1 1>"
    assert repr(failed) == r"<LearnerRecord: failed, train failed: <script>\x1b]0;mine\x07: no data>"


def test_a_record_is_a_table_in_notebooks_and_nothing_of_a_peer_is_html() -> None:
    html = SHOWN._repr_html_()
    assert html.startswith("<p>round 3: 1 of 2 updates")
    assert "<td>a</td><td>counted</td><td>900</td><td>0.5</td><td>1</td><td></td>" in html
    assert r"<td>&lt;script&gt;\x1b]0;mine\x07</td>" in html
    assert "<script>" not in html
    many = RoundRecord(1, 0, learners={f"site-{number}": LearnerRecord() for number in range(300)})
    assert "(the last 200 of 300)" in many._repr_html_()
