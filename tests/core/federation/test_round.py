"""What a federation's records say: times, bytes, means and failures."""

from __future__ import annotations

import pytest
from sandbox import A, B, C, Sandbox, training

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation.records import Failure, LearnerRecord, RoundRecord
from metisfl_async.core.federation.tasks import TaskKind


def test_a_record_tells_how_long_each_step_of_each_learner_and_of_the_round_took() -> None:
    sandbox = Sandbox()
    sandbox.give_model()
    sandbox.start(2)
    sandbox.join(A)
    sandbox.wait(50)
    sandbox.join(B)  # the federation starts here
    first = sandbox.records
    sandbox.wait(1)
    sandbox.accept(A)
    sandbox.wait(2)
    sandbox.accept(B)  # +3: dispatched
    sandbox.wait(4)
    of_a = sandbox.begin_upload(A)  # +7
    sandbox.wait(5)
    assert sandbox.arrived(of_a) is None  # +12
    sandbox.wait(1)
    of_b = sandbox.begin_upload(B)  # +13
    sandbox.wait(1)
    assert sandbox.arrived(of_b) is None  # +14
    sandbox.wait(6)
    sandbox.fold(of_a)  # +20: it took the aggregator 8 s
    sandbox.wait(3)
    sandbox.fold(of_b)  # +23: 3 s, though it had waited for longer
    sandbox.wait(7)
    sandbox.publish()  # +30
    sandbox.wait(4)
    sandbox.accept(B, A)
    sandbox.wait(6)
    sandbox.evaluate(A, accuracy=0.5)
    sandbox.wait(20)
    sandbox.evaluate(B, accuracy=1.0)  # +60
    (record,) = first
    assert (record.number, record.model_version, record.is_published) == (1, 0, True)
    assert record.started_ms == 0
    assert record.dispatch_ms == pytest.approx(3_000)
    assert record.train_ms == pytest.approx(23_000)
    assert record.aggregation_ms == pytest.approx(8_000 + 3_000 + 7_000)
    assert record.evaluation_dispatch_ms == pytest.approx(4_000)
    assert record.evaluation_ms == pytest.approx(30_000)
    assert record.duration_ms == pytest.approx(60_000)
    a, b = record.learners[A], record.learners[B]
    assert (a.acknowledge_ms, a.train_ms, a.staging_ms, a.aggregation_ms, a.evaluation_ms) == pytest.approx(
        (1_000, 6_000, 5_000, 8_000, 10_000)
    )
    assert (b.acknowledge_ms, b.train_ms, b.staging_ms, b.aggregation_ms, b.evaluation_ms) == pytest.approx(
        (3_000, 10_000, 1_000, 3_000, 30_000)
    )
    sandbox.wait(5)
    sandbox.train(A, B)
    sandbox.wait(2)
    sandbox.publish()
    sandbox.evaluate(A, B)
    assert (first[1].started_ms, first[1].duration_ms) == pytest.approx((60_000, 7_000))
    assert [(part.sent_ms, part.ended_ms, part.evaluation_sent_ms) for part in (a, b)] == [
        pytest.approx((0, 20_000, 30_000)),
        pytest.approx((0, 23_000, 30_000)),
    ]
    of_second = first[1].learners[A]
    assert (of_second.sent_ms, of_second.ended_ms, of_second.evaluation_sent_ms) == pytest.approx(
        (60_000, 65_000, 67_000)
    )


def test_an_update_that_the_aggregator_refused_took_its_time_from_the_next_one() -> None:
    sandbox = training(A, B, config=ControllerConfig(evaluate_every=0))
    of_a, of_b = sandbox.upload(A), sandbox.upload(B)
    sandbox.wait(3)
    sandbox.rejected(of_a, "NotFinite", "tensor '0' holds NaN")
    sandbox.wait(1)
    sandbox.fold(of_b)
    sandbox.publish()
    (record,) = sandbox.records
    assert record.learners[A].aggregation_ms is None
    assert record.learners[B].aggregation_ms == pytest.approx(1_000)
    assert record.aggregation_ms == pytest.approx(1_000)


def test_times_are_from_the_last_offer_and_the_last_stream() -> None:
    sandbox = training(A, config=ControllerConfig(evaluate_every=0))
    sandbox.wait(100)
    sandbox.join(A)  # offered again
    sandbox.wait(1)
    task = sandbox.begin_upload(A)  # is the acknowledgement as well
    sandbox.wait(10)
    sandbox.interrupted(task)
    sandbox.wait(10)
    sandbox.begin_upload(A)
    sandbox.wait(2)
    assert sandbox.arrived(task) is None
    sandbox.fold(task)
    sandbox.publish()
    part = sandbox.records[0].learners[A]
    assert (part.acknowledge_ms, part.train_ms, part.staging_ms) == pytest.approx((1_000, 20_000, 2_000))
    assert (part.sent_ms, part.ended_ms) == pytest.approx((100_000, 123_000))


def test_what_did_not_happen_took_no_time() -> None:
    sandbox = training(A, config=ControllerConfig(evaluate_every=0))
    sandbox.wait(2)
    sandbox.fail(A)
    (record,) = sandbox.records
    assert (record.dispatch_ms, record.train_ms, record.aggregation_ms, record.evaluation_ms) == (0, 2_000, 0, 0)
    task = next(task for task in sandbox.offers if task.kind is TaskKind.TRAIN)
    assert record.learners[A] == LearnerRecord(
        train_task_id=task.id,
        train_state="failed",
        sent_ms=0.0,
        ended_ms=2_000.0,
        failures=[Failure("train", "ValueError", "no data")],
    )


def test_a_round_that_is_stopped_tells_the_times_so_far() -> None:
    in_training, in_aggregation, in_evaluation = (training(A, B) for _ in range(3))
    for sandbox in (in_training, in_aggregation, in_evaluation):
        sandbox.wait(1)
        sandbox.accept(A, B)
        sandbox.wait(1)
        whole = sandbox.upload(A)
        sandbox.wait(1)
        sandbox.fold(whole)
        if sandbox is not in_training:
            sandbox.train(B)
        if sandbox is in_evaluation:
            sandbox.wait(1)
            sandbox.publish()
        sandbox.wait(4)
        sandbox.stop("enough")
        if sandbox is in_aggregation:
            sandbox.publish()
    (record,) = in_training.records
    assert (record.dispatch_ms, record.train_ms, record.aggregation_ms, record.duration_ms) == pytest.approx(
        (1_000, 7_000, 1_000, 7_000)
    )
    (record,) = in_aggregation.records
    assert (record.train_ms, record.aggregation_ms, record.duration_ms) == pytest.approx((3_000, 5_000, 7_000))
    (record,) = in_evaluation.records
    assert (record.train_ms, record.aggregation_ms, record.evaluation_ms, record.duration_ms) == pytest.approx(
        (3_000, 2_000, 4_000, 8_000)
    )


def test_bytes_are_counted_for_the_cohort_while_its_round_is_open() -> None:
    sandbox = Sandbox(ControllerConfig(evaluate_every=0))
    moved = sandbox.moved
    moved(A, sent=1)
    sandbox.start(2)
    sandbox.join(A, B)
    moved(A, received=1)  # first weights
    sandbox.train(sandbox.offers[0].learner)
    sandbox.join(C)
    moved(A, sent=100)
    moved(A, sent=50, received=20)
    moved(B, received=3)
    moved(C, sent=1_000)  # takes part from the next round on
    sandbox.train(A, B)
    sandbox.leave(A)
    sandbox.leave(B)
    sandbox.leave(C)
    sandbox.publish()
    moved(A, sent=1_000)
    (record,) = sandbox.records
    assert (record.bytes_sent, record.bytes_received) == (150, 23)
    assert (record.learners[A].bytes_sent, record.learners[A].bytes_received) == (150, 20)
    assert (record.learners[B].bytes_sent, record.learners[B].bytes_received) == (0, 3)


def test_means_are_weighted_by_the_scaling_factors_over_the_learners_that_report() -> None:
    sandbox = training(A, B, C)
    sandbox.accept(A, B)
    sandbox.fold(sandbox.upload(A), 1.0, {"num_training_examples": 1, "site": "north"}, loss=4.0)
    sandbox.fold(sandbox.upload(B), 3.0, {"num_training_examples": 3}, loss=8.0, auc=0.5)
    sandbox.fail(C)
    sandbox.publish()
    sandbox.evaluate(A, accuracy=0.0)
    sandbox.evaluate(B, accuracy=1.0)
    sandbox.evaluate(C, accuracy=0.25)  # no weight of it is known
    (record,) = sandbox.records
    assert record.participants == [A, B]
    assert record.train_metrics == {"loss": 7.0, "auc": 0.5}
    assert record.evaluation_metrics == {"accuracy": 0.75}
    assert [part.weight for part in record.learners.values()] == [1.0, 3.0, None]
    assert record.learners[A].train_metadata == {"num_training_examples": 1, "site": "north"}
    assert record.learners[A].train_metrics == {"loss": 4.0}
    assert record.learners[C].evaluation_metrics == {"accuracy": 0.25}


def test_the_last_known_weight_of_a_learner_weighs_its_evaluation() -> None:
    sandbox = training(A, B)
    for _ in range(2):
        sandbox.train(A, weight=1.0)
        if sandbox.records:
            sandbox.fail(B)
        else:
            sandbox.train(B, weight=3.0)
        sandbox.publish()
        sandbox.evaluate(A, accuracy=0.0)
        sandbox.evaluate(B, accuracy=1.0)
    assert [record.evaluation_metrics for record in sandbox.records] == [{"accuracy": 0.75}] * 2


def test_all_that_goes_wrong_with_a_learner_is_on_its_record() -> None:
    sandbox = training(A, B, config=ControllerConfig(round_timeout_secs=30.0))
    sandbox.train(A)
    sandbox.wait(30.0)
    sandbox.publish()
    sandbox.evaluate(A)
    sandbox.fail(B, "out of memory", "MemoryError")
    (record,) = sandbox.records
    assert record.learners[A].failures == []
    assert record.learners[B].train_state == "expired"
    assert record.learners[B].failures == [
        Failure("train", "expired", "round 1 did not wait longer than round_timeout_secs=30"),
        Failure("evaluate", "MemoryError", "out of memory"),
    ]


def test_a_closed_record_does_not_change() -> None:
    sandbox = training(A, B)
    late = sandbox.begin_upload(B)
    sandbox.train(A)
    sandbox.leave(B)
    sandbox.publish()
    sandbox.evaluate(A)
    (record,) = sandbox.records
    before = record.to_dict()
    sandbox.join(B)
    sandbox.moved(A, sent=5)
    sandbox.interrupted(late)
    sandbox.rejected(late, "Damaged", "end frame")
    sandbox.folded(late, 1.0, {}, {})
    assert sandbox.arrived(late) is not None
    assert RoundRecord.from_dict(before) == record
