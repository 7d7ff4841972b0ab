"""Models that were made and cannot be published."""

from __future__ import annotations

import pytest
from sandbox import A, B, C, D, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.commands import Finish
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import TaskFailed
from metisfl_async.core.federation.records import Failure, RoundRecord
from metisfl_async.core.federation.tasks import TaskState

IN_ROUNDS = ControllerConfig(evaluate_every=0)
WITHOUT = ControllerConfig(scheduler="Asynchronous", evaluate_every=0)
PICKY = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedAsync", evaluate_every=0)
MODELS = TerminationSignals(global_updates=100)


def test_a_round_without_a_model_counts_nobody_says_why_and_is_tried_again() -> None:
    sandbox = training(A, B, config=IN_ROUNDS)
    sandbox.train(A, B)
    first = sandbox.offers[:]
    sandbox.unpublished("it is NaN")
    (record,) = sandbox.records
    assert (record.is_published, record.failure, record.participants) == (False, "it is NaN", [])
    assert record.summary().startswith("not published: 0 of 2 updates")
    assert record.summary().endswith("it is NaN")
    assert RoundRecord.from_dict(record.to_dict()) == record
    for task in first:
        assert task.state is TaskState.REJECTED
        assert record.learners[task.learner].failures == [Failure("train", "NoModel", "it is NaN")]
    assert sandbox.withdrawn == first  # so that their learners let go of them
    assert sandbox.told == []
    assert [event.type for event in sandbox.events_of(TaskFailed)] == ["NoModel", "NoModel"]
    assert sandbox.phase() is Phase.TRAINING
    assert [(task.round_number, task.model_version) for task in sandbox.offers[2:]] == [(1, 0), (1, 0)]
    sandbox.train(A, B)
    sandbox.publish()
    assert sandbox.records[-1].participants == [A, B]
    assert sandbox.federation.standing.failed_models == 0


@pytest.mark.parametrize("config", [IN_ROUNDS, WITHOUT], ids=["in rounds", "without"])
def test_it_ends_as_a_failure_when_it_happens_again_and_again(config: ControllerConfig) -> None:
    signals = None if config is IN_ROUNDS else MODELS
    sandbox = training(A, config=config, signals=signals)
    for _ in range(3):
        assert sandbox.finish is None
        sandbox.train(A)
        sandbox.unpublished("it is NaN")
    reason = "no model could be published, 3 times in a row; last: it is NaN"
    assert sandbox.finish == Finish(reason, Ending.NO_MODEL)
    assert sandbox.federation.model_version == 0


def test_updates_that_are_kept_are_in_the_next_attempt() -> None:
    sandbox = training(A, B, config=IN_ROUNDS)
    sandbox.fail(B)
    sandbox.train(A)
    sandbox.unpublished("1 update is too few", keeps_updates=True)
    assert sandbox.records[0].failure == "1 update is too few"
    assert [task.learner for task in sandbox.offers[2:]] == [B]
    sandbox.train(B)
    sandbox.publish()
    assert sandbox.records[-1].participants == [A, B]


def test_without_rounds_they_are_kept_until_another_one_came() -> None:
    sandbox = training(A, B, config=PICKY, signals=MODELS)
    sandbox.train(A)
    assert sandbox.aggregating == 1
    sandbox.unpublished("1 update is too few", keeps_updates=True)
    assert sandbox.records == []
    assert not sandbox.federation._is_aggregating
    assert [task.learner for task in sandbox.offers] == [A, B]  # A waits for the others
    sandbox.train(B)
    assert sandbox.aggregating == 1
    sandbox.publish()
    assert [(record.participants, record.failure) for record in sandbox.records] == [([A, B], "")]
    sandbox.train(A)
    assert sandbox.aggregating == 2  # one is enough to ask again


def test_without_rounds_who_waits_for_nobody_is_asked_again() -> None:
    sandbox = training(A, config=PICKY, signals=MODELS)
    for attempt in range(5):
        assert len(sandbox.offers) == attempt + 1
        sandbox.train(A)
        sandbox.unpublished("too few", keeps_updates=True)
    assert sandbox.finish is None  # each attempt had one more
    sandbox.train(A)
    sandbox.publish()
    assert sandbox.records[0].participants == [A] * 6


def test_without_rounds_who_is_at_work_goes_on() -> None:
    sandbox = training(A, B, config=WITHOUT, signals=MODELS)
    sandbox.train(A)
    sandbox.unpublished("it is NaN")
    (record,) = sandbox.records
    assert (record.failure, list(record.learners)) == ("it is NaN", [A])
    assert sandbox.forgotten == [A]  # what it sent is not in a later mean either
    assert [task.learner for task in sandbox.offers] == [A, B, A]
    sandbox.train(B)
    assert sandbox.others == ()
    sandbox.publish()
    assert sandbox.records[-1].participants == [B]


def test_what_comes_while_learners_are_missing_belongs_to_a_new_record() -> None:
    sandbox = training(
        A, B, config=ControllerConfig(scheduler="Asynchronous", evaluate_every=0, min_learners=2), signals=MODELS
    )
    sandbox.train(A)
    whole = sandbox.upload(B)
    sandbox.disconnect(B)
    sandbox.unpublished("it is NaN")
    assert sandbox.phase() is Phase.GATHERING
    sandbox.fold(whole)
    sandbox.join(B)
    assert sandbox.aggregating == 1
    sandbox.publish()
    assert [record.participants for record in sandbox.records] == [[], [B]]


def test_a_stop_waits_for_it_and_a_late_one_changes_nothing() -> None:
    sandbox = training(A, config=IN_ROUNDS)
    sandbox.train(A)
    sandbox.stop("enough")
    assert sandbox.finish is None
    sandbox.unpublished("it is NaN")
    assert sandbox.finish == Finish("enough", Ending.STOPPED)
    assert sandbox.records[0].failure == "it is NaN"
    assert sandbox.unpublished() == []


def test_one_that_nobody_asked_for_changes_nothing() -> None:
    sandbox: Sandbox = training(C, D)
    assert sandbox.unpublished() == []
    assert sandbox.phase() is Phase.TRAINING
