"""A federation in rounds that is taken up again from its standing."""

from __future__ import annotations

import pytest
from sandbox import FEDERATION, STRANGE, A, B, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.events import FederationFinished, FirstWeights, TaskFailed
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.ids import ModelRef, StreamId

CONFIG = ControllerConfig(min_learners=2, lease_secs=30.0)
WITHOUT_ROUNDS = ControllerConfig(aggregation_rule="FedAsync", scheduler="Asynchronous", min_learners=2)


def durable(signals: TerminationSignals | None = None) -> Sandbox:
    """Train in a first round whose opening is saved."""
    sandbox = Sandbox(CONFIG, durable_every=1)
    sandbox.give_model()
    sandbox.start(2, signals)
    sandbox.join(A, B)
    sandbox.save()
    return sandbox


def resumed(standing: str, version: int | None, config: ControllerConfig = CONFIG) -> Sandbox:
    sandbox = Sandbox(config, durable_every=1)
    sandbox.hear(happened.Resume(Standing.from_json(standing), version))
    return sandbox


def test_nothing_is_offered_before_it_is_saved_and_who_is_away_gets_its_task_on_coming_back() -> None:
    sandbox = Sandbox(CONFIG, durable_every=1)
    sandbox.give_model()
    sandbox.start(2)
    sandbox.join(A, B)
    assert not sandbox.offers
    sandbox.disconnect(B)
    sandbox.save()
    assert [task.learner for task in sandbox.offers] == [A]
    sandbox.join(B)
    assert [task.learner for task in sandbox.offers] == [A, B]


def test_a_round_whose_learners_left_before_it_was_saved_goes_on() -> None:
    sandbox = Sandbox(CONFIG, durable_every=1)
    sandbox.give_model()
    sandbox.start(2)
    sandbox.join(A, B)
    sandbox.leave(A)
    sandbox.leave(B)
    sandbox.save()
    assert sandbox.phase() is Phase.GATHERING
    assert not sandbox.offers


def test_a_round_in_training_is_taken_up_with_its_tasks() -> None:
    before = durable()
    of_a, of_b = before.task(A), before.task(B)
    sandbox = resumed(before.saved[-1], 0)
    assert sandbox.phase() is Phase.TRAINING
    for task, is_done, verdict in ((of_a, True, Verdict.UPLOAD), (of_b, False, Verdict.CONTINUE)):
        held = HeldTask(task.id, is_done, "train", ModelRef(FEDERATION, 0))
        sandbox.hear(happened.Joined(task.learner, [held]))
        assert sandbox.verdicts[task.id][0] is verdict
        again = sandbox.admit(task.learner, task.id)
        assert isinstance(again, Task)
        assert sandbox.arrived(again) is None
        sandbox.fold(again)
    sandbox.publish()
    assert sorted(sandbox.told) == sorted([of_a.id, of_b.id])
    assert sandbox.federation.model_version == 1


def test_learners_that_do_not_come_back_have_left_after_a_lease() -> None:
    sandbox = resumed(durable().saved[-1], 0)
    sandbox.join(A)
    sandbox.wait(CONFIG.lease_secs)
    (failed,) = sandbox.events_of(TaskFailed)
    assert failed.learner == B
    assert "it did not come back to the resumed controller within lease_secs=30" in failed.message
    assert not sandbox.federation.returning


def test_the_time_that_was_spent_counts() -> None:
    before = durable(TerminationSignals(execution_cutoff_time_mins=1.0))
    before.wait(20.0)
    before.train(A, B)
    sandbox = resumed(before.to_save, 1)
    assert sandbox.timers["cutoff"] == pytest.approx(sandbox.now + 40.0)
    sandbox.wait(40.0)
    sandbox.save()
    (finished,) = sandbox.events_of(FederationFinished)
    assert "execution_cutoff_time_mins=1 reached" in finished.reason


def test_a_model_that_was_saved_with_its_round_is_evaluated() -> None:
    before = durable()
    before.train(A, B)
    sandbox = resumed(before.to_save, 1)
    assert sandbox.federation.standing.num_published == 1
    sandbox.join(A, B)
    assert {task.kind for task in sandbox.offers} == {TaskKind.EVALUATE}
    sandbox.evaluate(A, B)
    assert sandbox.records[-1].participants == [A, B]


def test_who_failed_is_not_among_those_that_count_with_the_model() -> None:
    before = Sandbox(ControllerConfig(min_learners=1), durable_every=1)
    before.give_model()
    before.start(2)
    before.join(A, B)
    before.save()
    before.accept(A, B)
    before.fail(B)
    before.train(A)
    assert list(Standing.from_json(before.to_save).counted) == [A]


def test_one_whose_first_weights_never_came_asks_for_them_again() -> None:
    before = Sandbox(CONFIG, durable_every=1)
    standing = before.federation.as_started(
        happened.Start(TerminationSignals(federation_rounds=3), 2, 1990, None, False)
    )
    sandbox = resumed(standing, None)
    assert not sandbox.events_of(FirstWeights)
    sandbox.join(A, B)
    assert [task.kind for task in sandbox.offers] == [TaskKind.GET_WEIGHTS]


def test_one_that_waited_for_learners_between_two_rounds_waits_again() -> None:
    before = durable()
    before.leave(A)
    before.leave(B)
    assert before.phase() is Phase.GATHERING
    sandbox = resumed(before.federation._written(), 0)
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(A, B)
    sandbox.save()
    assert sandbox.phase() is Phase.TRAINING


def without_rounds(global_updates: int) -> Sandbox:
    """Train without rounds; the first model is made, and each learner was evaluated."""
    sandbox = Sandbox(WITHOUT_ROUNDS, durable_every=1)
    sandbox.give_model()
    sandbox.start(2, TerminationSignals(global_updates=global_updates))
    sandbox.join(A, B)
    sandbox.train(A)
    return sandbox


def test_one_without_rounds_closes_the_records_that_waited_for_evaluations() -> None:
    before = without_rounds(10)
    sandbox = resumed(before.to_save, 1, WITHOUT_ROUNDS)
    assert [record.participants for record in sandbox.records] == [[A]]
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(A, B)
    assert sandbox.phase() is Phase.TRAINING


def test_one_without_rounds_remembers_the_latest_evaluation_of_each_learner() -> None:
    before = without_rounds(10)
    before.publish()
    assert before.task(A).kind is TaskKind.EVALUATE
    before.evaluate(A, score=0.5)
    standing = Standing.from_json(before.federation._written())
    assert standing.evaluations == {A: (1.0, {"score": 0.5})}
    sandbox = resumed(standing.to_json(), 1, WITHOUT_ROUNDS)
    assert Standing.from_json(sandbox.federation._written()).evaluations == standing.evaluations


def test_one_without_rounds_that_has_made_its_models_ends() -> None:
    sandbox = resumed(without_rounds(1).to_save, 1, WITHOUT_ROUNDS)
    sandbox.save()
    (finished,) = sandbox.events_of(FederationFinished)
    assert finished.reason == "global_updates=1 reached"


def test_of_models_that_are_not_saved_no_version_is_used_again() -> None:
    sandbox = Sandbox(WITHOUT_ROUNDS, durable_every=3)
    sandbox.give_model()
    sandbox.start(2, TerminationSignals(global_updates=10))
    started = sandbox.federation._written()
    sandbox.join(A, B)
    made = []
    for _ in range(4):
        sandbox.train(A)
        made.append((sandbox.aggregating, bool(sandbox.to_save)))
        sandbox.publish()
        sandbox.evaluate(A, score=0.5)
    assert made == [(1, False), (2, False), (3, True), (4, False)]

    sandbox = resumed(started, 0, WITHOUT_ROUNDS)  # it saves each now; versions 1 and 2 may be out there
    sandbox.join(A, B)
    sandbox.train(A)
    assert sandbox.aggregating == 3
    standing = Standing.from_json(sandbox.to_save)
    assert (standing.num_published, standing.durable_every) == (1, 1)
    sandbox.publish()
    sandbox.evaluate(A, score=0.5)
    sandbox.train(A)
    assert sandbox.aggregating == 4


def test_an_end_waits_for_the_model_that_is_being_made_but_not_for_ever() -> None:
    sandbox = training(A)
    sandbox.fire("ending")  # of nothing
    assert sandbox.phase() is Phase.TRAINING
    sandbox.train(A)
    sandbox.stop("enough")
    assert sandbox.phase() is not Phase.FINISHED
    sandbox.fire("ending")
    (finished,) = sandbox.events_of(FederationFinished)
    assert finished.reason == "enough"


def test_what_nobody_waits_for_changes_nothing() -> None:
    sandbox = training(A)
    assert sandbox.hear(happened.Damaged(StreamId(99), "Damaged", "a bit")) == []
    assert sandbox.hear(happened.Saved(99)) == []


def test_a_move_that_is_none_is_a_bug() -> None:
    task = training(A).task(A)
    with pytest.raises(AssertionError, match="cannot go from offered to pending"):
        task.move_to(TaskState.PENDING)
    assert task.id != STRANGE
