"""Learners that go and come back, and outcomes that come twice, late, or from the wrong one."""

from __future__ import annotations

import pytest
from sandbox import STRANGE, A, B, C, Sandbox, training

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.commands import Greet
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.events import (
    LearnerEvaluated,
    LearnerJoined,
    LearnerLeft,
    RoundStarted,
    TaskFailed,
    UpdateCounted,
    UpdateFolded,
)
from metisfl_async.core.federation.tasks import TaskKind, TaskState, Verdict
from metisfl_async.core.federation.uploads import MOST_DAMAGES
from metisfl_async.core.messages import Outcome, UpdateReply

NO_EVALUATION = ControllerConfig(evaluate_every=0)
WITH_DEADLINE = ControllerConfig(evaluate_every=0, round_timeout_secs=30.0)
UNKNOWN = UpdateReply(Outcome.REFUSED, "no such task; its round is over")


# --- going ---------------------------------------------------------------------------------------------------------


def test_joins_and_leaves_are_announced_once_with_how_many_are_connected() -> None:
    sandbox = Sandbox()
    sandbox.join(A, B)
    sandbox.disconnect(A)
    sandbox.disconnect(A)
    sandbox.leave(A)  # its lease ended
    sandbox.leave(B)
    sandbox.leave(C)  # nobody knows it
    assert sandbox.events == [
        LearnerJoined(A, 1),
        LearnerJoined(B, 2),
        LearnerLeft(A, 1, "its connection broke"),
        LearnerLeft(B, 0, "it left"),
    ]
    assert sandbox.federation.num_connected == 0


@pytest.mark.parametrize("progress", ["offered", "accepted", "uploading"])
def test_a_learner_that_leaves_does_not_hold_up_its_round(progress: str) -> None:
    sandbox = training(A, B)
    sandbox.train(A)
    if progress != "offered":
        sandbox.accept(B)
    if progress == "uploading":
        sandbox.begin_upload(B)
    assert sandbox.task(B).state == progress
    sandbox.leave(B, "silent for lease_secs=60")
    assert sandbox.phase() is Phase.AGGREGATING
    assert sandbox.events_of(TaskFailed) == [TaskFailed(1, B, "train", "lost", "silent for lease_secs=60")]


def test_the_lease_of_a_disconnected_learner_may_end_as_well() -> None:
    sandbox = training(A, B)
    sandbox.train(A)
    sandbox.disconnect(B)
    assert sandbox.phase() is Phase.TRAINING
    sandbox.leave(B, "silent for lease_secs=60")
    assert sandbox.phase() is Phase.AGGREGATING


def test_a_whole_update_counts_though_its_learner_leaves() -> None:
    sandbox = training(A, B)
    sandbox.train(A)
    whole = sandbox.upload(B)
    sandbox.leave(B)
    assert sandbox.phase() is Phase.TRAINING
    sandbox.fold(whole)
    assert sandbox.phase() is Phase.AGGREGATING
    sandbox.publish()
    assert sandbox.phase() is Phase.EVALUATING
    assert sandbox.task(B).kind is TaskKind.TRAIN  # it is not asked to evaluate


def test_when_all_leave_the_round_is_given_up() -> None:
    sandbox = training(A, B)
    sandbox.leave(A)
    sandbox.leave(B)
    assert sandbox.phase() is Phase.GATHERING
    assert not sandbox.records[0].is_published
    sandbox.join(A)
    assert sandbox.events[-1] == RoundStarted(1, 0, [A])


# --- coming back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_done", "verdict"), [(False, Verdict.CONTINUE), (True, Verdict.UPLOAD)])
@pytest.mark.parametrize("was_accepted", [False, True])
def test_a_learner_that_comes_back_with_its_task_goes_on_with_it(
    was_accepted: bool, is_done: bool, verdict: Verdict
) -> None:
    sandbox = training(A, B)
    if was_accepted:
        sandbox.accept(A)
    task = sandbox.task(A)
    sandbox.disconnect(A)
    verdicts = sandbox.come_back(A, [(task.id, is_done)])
    assert verdicts[task.id][0] is verdict
    assert task.state is TaskState.ACCEPTED
    assert sandbox.offers.count(task) == 1
    sandbox.train(A, B)
    assert sandbox.phase() is Phase.AGGREGATING


@pytest.mark.parametrize("is_uploading", [False, True])
def test_a_learner_that_comes_back_without_its_task_has_lost_it(is_uploading: bool) -> None:
    sandbox = training(A, B)
    sandbox.train(A)
    sandbox.accept(B)
    task = sandbox.begin_upload(B) if is_uploading else sandbox.task(B)
    sandbox.disconnect(B)
    sandbox.join(B)
    assert (task.state, task.reason) == (TaskState.LOST, "the learner came back without it")
    assert sandbox.phase() is Phase.AGGREGATING
    assert sandbox.arrived(task) == "the task is lost: the learner came back without it"


def test_an_offer_that_was_not_acknowledged_is_made_again() -> None:
    sandbox = training(A, B)
    task = sandbox.task(A)
    sandbox.disconnect(A)
    sandbox.join(A)
    assert sandbox.offers.count(task) == 2
    assert task.state is TaskState.OFFERED
    sandbox.train(A, B)
    assert sandbox.phase() is Phase.AGGREGATING


def test_an_evaluation_is_offered_again_and_gone_on_with_in_the_same_way() -> None:
    sandbox = training(A, B)
    sandbox.train(A, B)
    sandbox.publish()
    first, second = sandbox.task(A), sandbox.task(B)
    sandbox.join(A)
    assert sandbox.offers.count(first) == 2
    assert sandbox.come_back(B, [(second.id, True)]) == {second.id: (Verdict.UPLOAD, "its outcome is awaited")}
    sandbox.evaluate(A, B)
    assert sandbox.phase() is Phase.TRAINING


def test_a_whole_update_is_not_lost_when_its_learner_comes_back_without_it() -> None:
    sandbox = training(A)
    whole = sandbox.upload(A)
    sandbox.join(A)
    assert whole.state is TaskState.RECEIVED
    sandbox.fold(whole)
    assert sandbox.phase() is Phase.AGGREGATING


def test_a_learner_that_was_given_up_hears_why_and_joins_the_next_round() -> None:
    sandbox = training(A, B, config=NO_EVALUATION)
    task = sandbox.task(B)
    sandbox.leave(B, "silent for lease_secs=60")
    verdicts = sandbox.come_back(B, [(task.id, True)])
    assert verdicts == {task.id: (Verdict.DISCARD, "the task is lost: silent for lease_secs=60")}
    assert sandbox.offers == [sandbox.task(A), task]
    sandbox.train(A)
    sandbox.publish()
    assert sandbox.events[-1] == RoundStarted(2, 1, [A, B])


def test_tasks_that_a_learner_should_not_hold_are_discarded_with_the_reason() -> None:
    sandbox = training(A, B, config=NO_EVALUATION)
    counted, of_another = sandbox.task(A), sandbox.task(B)
    sandbox.train(A)
    assert sandbox.come_back(A, [(counted.id, True), (of_another.id, False), (STRANGE, True)]) == {
        counted.id: (Verdict.KEEP, "it is folded; a model with it is to come"),
        of_another.id: (Verdict.DISCARD, "no such task; its round is over"),
        STRANGE: (Verdict.DISCARD, "no such task; its round is over"),
    }
    assert of_another.state is TaskState.OFFERED


def test_an_update_of_a_task_that_nobody_knows_any_more_after_the_end_is_none_that_was_refused() -> None:
    sandbox = training(A)
    assert sandbox.admit(A, STRANGE) == UNKNOWN
    sandbox.stop("enough")
    assert sandbox.admit(A, STRANGE) == UpdateReply(Outcome.CANCELLED, "the federation ended")


def test_a_learner_that_comes_back_after_the_end_hears_that_its_task_is_over() -> None:
    sandbox = training(A)
    sandbox.disconnect(A)
    sandbox.stop("enough")
    task = sandbox.task(A)
    assert sandbox.come_back(A, [(task.id, True)]) == {
        task.id: (Verdict.DISCARD, "the task is cancelled: the federation ended")
    }


# --- updates -------------------------------------------------------------------------------------------------------


def test_an_update_is_counted_once_however_often_it_comes() -> None:
    sandbox = training(A, B)
    sandbox.train(A, loss=0.5)
    task = sandbox.task(A)
    for _ in range(2):
        assert sandbox.admit(A, task.id) == UpdateReply(Outcome.FOLDED)
        assert sandbox.arrived(task) == ""
        assert sandbox.folded(task, 2.0, {"loss": 0.1}, {}) == []
    assert sandbox.events_of(UpdateFolded) == [UpdateFolded(1, A, 1.0, {"loss": 0.5})]
    assert sandbox.told == []
    sandbox.train(B)
    sandbox.publish()
    assert sandbox.admit(A, task.id) == UpdateReply(Outcome.COUNTED, "it was counted already")
    assert sandbox.events_of(UpdateCounted) == [UpdateCounted(1, A, 1.0, 1), UpdateCounted(1, B, 1.0, 1)]


def test_an_update_that_comes_again_while_it_is_folded_is_neither_received_nor_counted_again() -> None:
    sandbox = training(A)
    whole = sandbox.upload(A)
    assert sandbox.admit(A, whole.id) is whole
    assert whole.state is TaskState.RECEIVED
    assert sandbox.arrived(whole) == ""
    sandbox.fold(whole)
    assert [sandbox.answers[stream] for stream in sandbox.streams[whole.id]] == [UpdateReply(Outcome.FOLDED)] * 2
    assert len(sandbox.events_of(UpdateFolded)) == 1


def test_an_update_may_come_before_its_acknowledgement() -> None:
    sandbox = training(A)
    whole = sandbox.upload(A)
    sandbox.accept(A)
    sandbox.fold(whole)
    assert sandbox.phase() is Phase.AGGREGATING


def test_an_interrupted_update_may_be_sent_again() -> None:
    sandbox = training(A, config=WITH_DEADLINE)
    task = sandbox.begin_upload(A)
    assert sandbox.interrupted(task) == []
    assert task.state is TaskState.ACCEPTED
    sandbox.fold(sandbox.upload(A))
    assert sandbox.phase() is Phase.AGGREGATING


def test_an_interrupted_update_is_not_under_way_at_the_deadline() -> None:
    sandbox = training(A, config=WITH_DEADLINE)
    task = sandbox.begin_upload(A)
    sandbox.interrupted(task)
    sandbox.wait(30.0)
    assert task.state is TaskState.EXPIRED


def test_the_end_of_an_old_stream_does_not_interrupt_the_new_stream_of_the_same_update() -> None:
    sandbox = training(A, B, config=WITH_DEADLINE)
    for learner in (A, B):
        assert sandbox.begin_upload(learner) is sandbox.begin_upload(learner)
        older, _ = sandbox.streams[sandbox.task(learner).id]
        assert older in sandbox.abandoned
        assert sandbox.interrupted(sandbox.task(learner), oldest=True) == []
    whole = sandbox.task(A)
    assert sandbox.arrived(whole) is None
    sandbox.fold(whole)
    sandbox.wait(30.0)
    assert sandbox.task(B).state is TaskState.LATE


def test_a_stream_that_breaks_after_its_task_is_over_changes_nothing() -> None:
    sandbox = training(A, B)
    task = sandbox.begin_upload(A)
    sandbox.leave(A)
    assert sandbox.interrupted(task) == []
    assert task.state is TaskState.LOST


def test_a_refused_update_ends_its_task_and_may_not_be_sent_again() -> None:
    sandbox = training(A, B)
    task = sandbox.begin_upload(A)
    sandbox.rejected(task, "Damaged", "end frame: wrong digest")
    sandbox.rejected(task, "Damaged", "again")
    assert sandbox.events_of(TaskFailed) == [TaskFailed(1, A, "train", "Damaged", "end frame: wrong digest")]
    assert sandbox.admit(A, task.id) == UpdateReply(Outcome.REFUSED, "the task is rejected: end frame: wrong digest")
    assert sandbox.withdrawn == []  # the answer to the upload says it
    sandbox.train(B)
    assert sandbox.phase() is Phase.AGGREGATING


def test_updates_for_tasks_that_are_unknown_or_of_others_or_evaluations_are_refused() -> None:
    sandbox = training(A, B)
    assert sandbox.admit(A, STRANGE) == UNKNOWN
    assert sandbox.admit(A, sandbox.task(B).id) == UNKNOWN
    assert sandbox.task(B).state is TaskState.OFFERED
    sandbox.train(A, B)
    sandbox.publish()
    assert sandbox.admit(A, sandbox.task(A).id) == UNKNOWN


def test_a_late_update_is_refused_with_the_reason_and_for_an_older_round_as_unknown() -> None:
    sandbox = training(A, B, config=WITH_DEADLINE)
    late = sandbox.task(B)
    sandbox.train(A)
    sandbox.wait(30.0)
    why = UpdateReply(Outcome.REFUSED, "the task is expired: round 1 did not wait longer than round_timeout_secs=30")
    assert sandbox.admit(B, late.id) == why
    sandbox.publish()
    assert sandbox.admit(B, late.id) == why
    for _ in range(2):
        sandbox.train(A, B)
        sandbox.publish()
    assert sandbox.admit(B, late.id) == UNKNOWN


# --- other outcomes ------------------------------------------------------------------------------------------------


def test_messages_about_tasks_of_others_or_unknown_ones_change_nothing() -> None:
    sandbox = training(A, B)
    for task_id in (sandbox.task(B).id, STRANGE):
        assert sandbox.accepted(A, task_id) == []
        assert sandbox.failed(A, task_id, "ValueError", "no data") == []
        assert sandbox.evaluated(A, task_id, {"accuracy": 1.0}) == []
    assert [task.state for task in sandbox.offers] == [TaskState.OFFERED, TaskState.OFFERED]


def test_only_an_evaluation_is_ended_by_its_result_and_only_once() -> None:
    sandbox = training(A, B)
    sandbox.evaluate(A, accuracy=1.0)
    assert sandbox.task(A).state is TaskState.OFFERED
    sandbox.train(A, B)
    sandbox.publish()
    sandbox.evaluate(A, accuracy=0.5)
    sandbox.evaluate(A, accuracy=1.0)
    assert sandbox.events_of(LearnerEvaluated) == [LearnerEvaluated(1, A, {"accuracy": 0.5})]


@pytest.mark.parametrize("progress", ["offered", "accepted", "uploading"])
def test_a_learner_may_fail_at_any_time_before_its_update_is_there(progress: str) -> None:
    sandbox = training(A, B)
    if progress != "offered":
        sandbox.accept(A)
    task = sandbox.begin_upload(A) if progress == "uploading" else sandbox.task(A)
    sandbox.fail(A, "the disk is full", "OSError")
    sandbox.fail(A, "again")
    assert sandbox.events_of(TaskFailed) == [TaskFailed(1, A, "train", "OSError", "the disk is full")]
    assert sandbox.arrived(task) == "the task is failed: the disk is full"
    sandbox.accept(A)
    assert task.state is TaskState.FAILED


def test_a_failure_after_the_update_is_there_does_not_take_it_back() -> None:
    sandbox = training(A)
    whole = sandbox.upload(A)
    sandbox.fail(A)
    sandbox.fold(whole)
    assert sandbox.phase() is Phase.AGGREGATING


def test_of_two_different_updates_of_a_task_the_first_that_is_whole_is_the_one() -> None:
    sandbox = training(A, B)
    task = sandbox.upload(A)
    refused = sandbox.admit(A, task.id, content=b"another")
    assert isinstance(refused, UpdateReply)
    assert refused.outcome is Outcome.REFUSED
    assert "another update of the same task" in refused.reason
    (failed,) = sandbox.events_of(TaskFailed)
    assert (failed.learner, failed.type) == (A, "OtherContent")
    sandbox.fold(task)
    assert task.state is TaskState.FOLDED


def test_an_update_that_is_damaged_again_and_again_is_rejected() -> None:
    sandbox = training(A, B)
    for times in range(1, MOST_DAMAGES + 2):
        assert not sandbox.events_of(TaskFailed)
        task = sandbox.begin_upload(A)
        stream = sandbox.streams[task.id][-1]
        sandbox.hear(happened.Damaged(stream, "Damaged", "end frame: wrong digest"))
        expected = Outcome.DAMAGED if times <= MOST_DAMAGES else Outcome.REFUSED
        assert sandbox.answers[stream].outcome is expected
    assert task.state is TaskState.REJECTED
    assert sandbox.events_of(TaskFailed) == [TaskFailed(1, A, "train", "Damaged", "end frame: wrong digest")]


def test_who_comes_without_a_word_of_what_it_holds_is_not_greeted() -> None:
    sandbox = training(A)
    task = sandbox.task(A)
    commands = sandbox.hear(happened.Joined(B, None))
    assert not any(isinstance(command, Greet) for command in commands)
    assert set(sandbox.federation.connected) == {A, B}
    assert task.state is TaskState.OFFERED
