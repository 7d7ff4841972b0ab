"""Rounds: whole ones, late and failing ones, and the quorum between them."""

from __future__ import annotations

import pytest
from sandbox import A, B, C, D, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.commands import Finish
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import (
    FederationFinished,
    FirstWeights,
    LearnerEvaluated,
    LearnerJoined,
    ModelPublished,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    TaskMoved,
    UpdateCounted,
    UpdateFolded,
    UpdateRepeated,
)
from metisfl_async.core.federation.inputs import Folded, Published
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tasks import TaskKind, TaskState
from metisfl_async.core.ids import LearnerId

NO_EVALUATION = ControllerConfig(evaluate_every=0)
QUORUM_OF_TWO = ControllerConfig(evaluate_every=0, min_learners=2, round_timeout_secs=30.0)


def test_watchers_hear_how_far_a_learner_is_with_its_task() -> None:
    sandbox = training(A, config=ControllerConfig(evaluate_every=0))
    sandbox.accept(A)
    sandbox.wait(1)
    sandbox.served(A, 0)
    sandbox.moved(A, sent=30)
    sandbox.wait(2)
    sandbox.moved(A, sent=10, is_all=True)
    sandbox.wait(4)
    sandbox.fold(sandbox.upload(A))
    sandbox.moved(A, sent=10, is_all=True)  # fetched once more, for no task
    sandbox.publish()
    told, task_id = sandbox.events_of(TaskMoved), sandbox.offers[0].id
    assert told == [
        TaskMoved(1, A, "train", task_id, "fetching", 1_000.0),
        TaskMoved(1, A, "train", task_id, "working", 3_000.0),
        TaskMoved(1, A, "train", task_id, "uploading", 7_000.0),
    ]
    part = sandbox.records[0].learners[A]
    assert (part.fetch_ms, part.train_ms) == (3_000.0, 7_000.0)


def test_a_learner_that_fetches_and_sends_again_and_again_is_told_of_once() -> None:
    sandbox = training(A, config=ControllerConfig(evaluate_every=0))
    sandbox.accept(A)
    for _ in range(3):
        sandbox.served(A, 0)
        sandbox.moved(A, sent=10, is_all=True)
    for _ in range(3):
        sandbox.begin_upload(A)
        sandbox.served(A, 0)
    assert [event.state for event in sandbox.events_of(TaskMoved)] == ["fetching", "working", "uploading"]


def test_a_learner_that_has_the_model_works_at_once_and_fetches_again_after_it_was_away() -> None:
    sandbox = training(A)
    sandbox.served(A, 0)
    sandbox.wait(3)
    sandbox.moved(A, sent=1, is_all=True)
    sandbox.train(A)
    assert sandbox.federation.ledger.folded[A][0].part.fetch_ms == 0  # it had the model before it accepted the task
    sandbox.publish()
    sandbox.served(A, 1)
    sandbox.moved(A, sent=1, is_all=True)
    sandbox.accept(A)  # only now: it fetches before it says so
    sandbox.evaluate(A, accuracy=0.5)
    assert [event.state for event in sandbox.events_of(TaskMoved)][-2:] == ["fetching", "working"]
    del sandbox.events[:]
    sandbox.accept(A)
    sandbox.accept(A)
    assert sandbox.events_of(TaskMoved) == [TaskMoved(2, A, "train", sandbox.task(A).id, "working", 3_000.0)]
    sandbox.train(A)
    sandbox.publish()
    assert sandbox.federation.ledger.awaited[A].part.fetch_ms is None
    sandbox.disconnect(A)
    sandbox.join(A)
    del sandbox.events[:]
    sandbox.accept(A)
    assert not sandbox.events


def test_a_round_asks_all_who_are_connected_aggregates_evaluates_and_is_followed_by_the_next() -> None:
    config = ControllerConfig(train_params={"epochs": 2}, eval_params={"batch_size": 8})
    sandbox = training(A, B, config=config)
    for task in sandbox.offers:
        assert (task.kind, task.round_number, task.model_version) == (TaskKind.TRAIN, 1, 0)
        assert task.config == {"epochs": 2}
    sandbox.train(A)
    assert sandbox.phase() is Phase.TRAINING
    sandbox.train(B)
    assert sandbox.phase() is Phase.AGGREGATING
    assert sandbox.aggregating == 1
    sandbox.publish()
    assert sandbox.federation.model_version == 1
    assert sandbox.phase() is Phase.EVALUATING
    for task in sandbox.offers[2:]:
        assert (task.kind, task.round_number, task.model_version) == (TaskKind.EVALUATE, 1, 1)
        assert task.config == {"batch_size": 8}
    sandbox.evaluate(A, B, accuracy=0.5)
    assert [type(event) for event in sandbox.events if not isinstance(event, TaskMoved)] == [
        FirstWeights,
        *(LearnerJoined, LearnerJoined, RoundStarted, UpdateFolded, UpdateFolded, UpdateCounted, UpdateCounted),
        ModelPublished,
        *(LearnerEvaluated, LearnerEvaluated, RoundFinished, RoundStarted),
    ]
    assert sandbox.events[-1] == RoundStarted(2, 1, [A, B])
    assert [(task.round_number, task.model_version) for task in sandbox.offers[4:]] == [(2, 1), (2, 1)]


def test_a_new_model_is_only_taken_while_one_is_awaited() -> None:
    sandbox = training(A)
    assert sandbox.published(1) == []
    assert sandbox.federation.model_version == 0


def test_a_late_joiner_takes_part_from_the_next_round_on() -> None:
    sandbox = training(A)
    sandbox.join(B)
    assert [task.learner for task in sandbox.offers] == [A]
    sandbox.train(A)
    sandbox.publish()
    assert [task.learner for task in sandbox.offers] == [A, A]  # the evaluation is for the cohort as well
    sandbox.evaluate(A)
    assert sandbox.events[-1] == RoundStarted(2, 1, [A, B])


def test_at_its_deadline_a_round_closes_with_the_quorum_and_does_not_count_the_late() -> None:
    sandbox = training(A, B, C, D, config=QUORUM_OF_TWO)
    sandbox.train(A, B)
    sandbox.accept(C)
    uploading, unheard = sandbox.begin_upload(C), sandbox.task(D)
    sandbox.wait(29.9)
    assert sandbox.phase() is Phase.TRAINING
    sandbox.wait(0.1)
    assert sandbox.phase() is Phase.AGGREGATING
    reason = "round 1 did not wait longer than round_timeout_secs=30"
    assert (uploading.state, uploading.reason) == (TaskState.LATE, reason)
    assert (unheard.state, unheard.reason) == (TaskState.EXPIRED, reason)
    assert sandbox.withdrawn == [uploading, unheard]
    assert sandbox.events_of(TaskFailed) == [
        TaskFailed(1, C, "train", "late", reason),
        TaskFailed(1, D, "train", "expired", reason),
    ]
    assert sandbox.arrived(uploading) == f"the task is late: {reason}"
    sandbox.publish()
    assert sandbox.records[0].participants == [A, B]


def test_an_update_that_is_whole_at_the_deadline_still_counts() -> None:
    sandbox = training(A, B, C, config=QUORUM_OF_TWO)
    sandbox.train(A)
    whole = sandbox.upload(B)
    sandbox.wait(31.0)
    assert sandbox.phase() is Phase.TRAINING
    assert sandbox.task(C).state is TaskState.EXPIRED
    sandbox.fold(whole)
    assert sandbox.phase() is Phase.AGGREGATING


def test_an_update_that_is_whole_at_the_deadline_and_then_refused_does_not_count() -> None:
    sandbox = training(A, B, C, config=QUORUM_OF_TWO)
    sandbox.train(A)
    whole = sandbox.upload(B)
    sandbox.wait(31.0)
    sandbox.rejected(whole, "NotFinite", "tensor '0' holds NaN")
    (record,) = sandbox.records
    assert (record.is_published, record.participants) == (False, [])
    assert [part.train_state for part in record.learners.values()] == ["folded", "rejected", "expired"]


def test_the_deadline_of_a_round_is_its_own() -> None:
    sandbox = training(A, B, config=QUORUM_OF_TWO)
    sandbox.wait(29.0)
    sandbox.train(A, B)
    assert sandbox.timers == {}  # no deadline for the aggregator
    sandbox.publish()
    assert sandbox.timers == {"phase": 1059.0}


def test_without_a_deadline_a_round_waits_for_its_learners() -> None:
    sandbox = training(A)
    assert sandbox.timers == {}


# --- rounds that fail ----------------------------------------------------------------------------------------------


def test_a_round_below_quorum_is_tried_again_with_the_updates_that_are_folded_and_nobody_trains_twice() -> None:
    sandbox = training(A, B, C, config=ControllerConfig(evaluate_every=0, min_learners=3))
    sandbox.train(A, weight=7.0, loss=0.5)
    of_a = sandbox.task(A)
    sandbox.fail(B)
    sandbox.fail(C)
    (record,) = sandbox.records
    assert (record.number, record.is_published, record.participants) == (1, False, [])
    assert record.learners[A].train_state == "folded"
    assert sandbox.mean_of == [of_a]
    assert sandbox.told == []
    assert sandbox.events[-1] == RoundStarted(1, 0, [B, C])
    sandbox.train(B, C)
    assert sandbox.task(A) is of_a
    sandbox.publish()
    assert sandbox.told == [of_a.id, sandbox.offers[3].id, sandbox.offers[4].id]
    assert [(record.number, record.is_published) for record in sandbox.records] == [(1, False), (1, True)]
    published = sandbox.records[1]
    assert published.participants == [A, B, C]
    assert (published.learners[A].weight, published.learners[A].train_metrics) == (7.0, {"loss": 0.5})
    assert published.learners[A].train_state == "counted"
    assert record.learners[A].train_state == "folded"  # a closed record does not change
    assert sandbox.events[-1] == RoundStarted(2, 1, [A, B, C])


def test_too_many_rounds_below_quorum_end_it_as_a_failure_that_names_the_errors_of_the_last() -> None:
    sandbox = training(A, B, config=QUORUM_OF_TWO)
    sandbox.train(A)
    for attempt in range(3):
        sandbox.fail(B, f"attempt {attempt}")
    assert sandbox.finish == Finish(
        "round 1 has 1 of min_learners=2 updates, 3 times in a row; last: b: ValueError: attempt 2", Ending.QUORUM_LOST
    )
    assert sandbox.events[-1] == FederationFinished(sandbox.finish.reason, True, Ending.QUORUM_LOST)
    assert [record.number for record in sandbox.records] == [1, 1, 1]


def test_only_failures_in_a_row_are_too_many() -> None:
    sandbox = training(A, config=NO_EVALUATION)
    for _ in range(3):
        sandbox.fail(A)
        sandbox.fail(A)
        sandbox.train(A)
        sandbox.publish()
    assert [record.is_published for record in sandbox.records] == [False, False, True] * 3
    assert sandbox.finish is None


def test_failures_to_give_first_weights_do_not_count_against_the_rounds() -> None:
    sandbox = Sandbox()
    sandbox.start()
    sandbox.join(A)
    sandbox.fail(A)
    sandbox.fail(A)
    sandbox.train(A)
    sandbox.fail(A)
    assert sandbox.finish is None


def test_learners_with_the_same_error_are_named_together() -> None:
    sites = [LearnerId(f"site-{index}") for index in range(5)]
    sandbox = training(*sites, config=ControllerConfig(max_failed_rounds=1))
    for site in sites:
        sandbox.fail(site, "no data", "ValueError")
    assert sandbox.finish is not None
    assert sandbox.finish.reason.endswith(
        "updates, 1 time in a row; last: site-0, site-1, site-2 and 2 more: ValueError: no data"
    )


def test_the_errors_of_three_learners_are_named_and_the_rest_counted() -> None:
    sites = [LearnerId(f"site-{index}") for index in range(5)]
    sandbox = training(*sites, config=ControllerConfig(max_failed_rounds=1))
    for index, site in enumerate(sites):
        sandbox.fail(site, f"disk {index} is full", "OSError")
    assert sandbox.finish is not None
    assert sandbox.finish.reason.endswith(
        "last: site-0: OSError: disk 0 is full; site-1: OSError: disk 1 is full; site-2: OSError: disk 2 is full; "
        "and 2 more reasons"
    )


# --- quorum between rounds -----------------------------------------------------------------------------------------


def test_a_quorum_lost_between_rounds_is_waited_for_and_training_goes_on_once_it_is_there_again() -> None:
    sandbox = training(A, B, config=QUORUM_OF_TWO)
    sandbox.train(A, B)
    sandbox.leave(B)
    sandbox.publish()
    assert sandbox.phase() is Phase.GATHERING
    assert sandbox.timers == {"gather": 1600.0}
    sandbox.wait(599.0)
    sandbox.join(C)
    assert sandbox.events[-1] == RoundStarted(2, 1, [A, C])
    sandbox.train(A, C)
    sandbox.publish()
    assert [record.number for record in sandbox.records] == [1, 2]


def test_a_quorum_that_does_not_come_back_ends_it_as_a_failure() -> None:
    sandbox = training(A, B, config=QUORUM_OF_TWO)
    sandbox.leave(A)
    sandbox.leave(B)
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(B)
    sandbox.wait(600.0)
    assert sandbox.finish == Finish("1 of 2 learners are connected after 600 s (b)", Ending.QUORUM_LOST)


def test_without_a_quorum_timeout_learners_are_waited_for() -> None:
    sandbox = training(A, config=ControllerConfig(quorum_timeout_secs=None))
    sandbox.leave(A)
    assert sandbox.timers == {}
    sandbox.join(B)
    assert sandbox.events[-1] == RoundStarted(1, 0, [B])


def test_later_rounds_start_with_the_quorum_though_the_first_waited_for_more() -> None:
    sandbox = training(A, B, C, config=NO_EVALUATION)
    sandbox.train(A, B, C)
    sandbox.leave(B)
    sandbox.disconnect(C)
    sandbox.publish()
    assert sandbox.events[-1] == RoundStarted(2, 1, [A])


# --- evaluation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "evaluated"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (5, [5])])
def test_the_model_of_every_kth_round_is_evaluated(every: int, evaluated: list[int]) -> None:
    signals = TerminationSignals(federation_rounds=5)
    sandbox = training(A, config=ControllerConfig(evaluate_every=every), signals=signals)
    for number in range(1, 6):
        sandbox.train(A)
        sandbox.publish()
        if number in evaluated:
            sandbox.evaluate(A)
    assert [event.number for event in sandbox.events_of(LearnerEvaluated)] == evaluated
    assert sandbox.finish is not None


def test_who_has_left_is_not_asked_to_evaluate_and_who_is_away_is_asked_on_coming_back() -> None:
    sandbox = training(A, B, C)
    sandbox.train(A, B, C)
    sandbox.leave(B)
    sandbox.disconnect(C)
    sandbox.publish()
    assert [task.learner for task in sandbox.offers[3:]] == [A]
    sandbox.evaluate(A)
    assert sandbox.phase() is Phase.EVALUATING
    sandbox.join(C)
    assert sandbox.task(C).kind is TaskKind.EVALUATE
    sandbox.evaluate(C)
    assert sandbox.phase() is Phase.TRAINING


def test_who_stays_away_from_an_evaluation_does_not_hold_it_up() -> None:
    sandbox = training(A, B)
    sandbox.train(A, B)
    sandbox.disconnect(B)
    sandbox.publish()
    sandbox.evaluate(A)
    sandbox.leave(B)
    assert sandbox.phase() is Phase.TRAINING


def test_an_evaluation_by_nobody_is_over_at_once() -> None:
    sandbox = training(A)
    sandbox.train(A)
    sandbox.leave(A)
    sandbox.publish()
    assert sandbox.phase() is Phase.GATHERING
    assert sandbox.records[0].is_published


def test_evaluations_that_fail_or_are_late_are_noted_and_the_round_stands() -> None:
    sandbox = training(A, B, C, config=ControllerConfig(round_timeout_secs=30.0))
    sandbox.train(A, B, C)
    sandbox.publish()
    sandbox.evaluate(A, accuracy=0.5)
    sandbox.fail(B)
    sandbox.wait(30.0)
    (record,) = sandbox.records
    assert record.is_published
    assert record.evaluation_metrics == {"accuracy": 0.5}
    assert [failure.type for part in record.learners.values() for failure in part.failures] == ["ValueError", "expired"]
    assert sandbox.phase() is Phase.TRAINING


@pytest.mark.parametrize("count", [-1.0, 1e10, float("nan")])
def test_an_evaluation_that_claims_an_impossible_number_of_examples_does_not_count(count: float) -> None:
    sandbox = training(A, B)
    sandbox.train(A, B)
    sandbox.publish()
    sandbox.evaluate(A, accuracy=0.0, num_examples=count)
    sandbox.evaluate(B, accuracy=0.5, num_examples=2.0)
    (record,) = sandbox.records
    assert record.evaluation_metrics == {"accuracy": 0.5}
    (failure,) = record.learners[A].failures
    assert failure.type == "ConfigError"
    assert failure.message == f"num_examples is {count!r}; allowed: a number >= 0 and <= max_weight=1000000000"


def test_what_is_told_of_an_update_is_in_the_record_and_what_is_nothing_new_is_announced() -> None:
    sandbox = training(A, B, C, config=NO_EVALUATION)
    tasks = {learner: sandbox.task(learner) for learner in (A, B, C)}
    told = {A: {"norm": 2.0}, B: {"norm": 0.0, "is_global": True}, C: {"norm": 2.0, "twin": A}}
    for learner, task in tasks.items():
        sandbox.accept(learner)
        stream = sandbox.streams[sandbox.upload(learner).id][-1]
        sandbox.hear(Folded(stream, 1.0, **told[learner]))  # type: ignore[arg-type]
        assert task.state is TaskState.FOLDED
    assert sandbox.events_of(UpdateRepeated) == [UpdateRepeated(1, B, None), UpdateRepeated(1, C, A)]
    notes = {A: {"share": 0.5}}
    sandbox.hear(Published(1, 0.0, notes, {tasks[A].id: 0.75, tasks[C].id: -0.5}))
    parts = sandbox.records[0].learners
    assert [(part.update_norm, part.update_cosine) for part in parts.values()] == [
        (2.0, 0.75),
        (0.0, None),
        (2.0, -0.5),
    ]
    assert [(part.is_global, part.twin) for part in parts.values()] == [(False, None), (True, None), (False, A)]
    assert [part.rule_notes for part in parts.values()] == [{"share": 0.5}, {}, {}]
    assert RoundRecord.from_dict(sandbox.records[0].to_dict()) == sandbox.records[0]
