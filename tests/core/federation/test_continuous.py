"""Federations without rounds: what is offered to whom, when models are made, and what their records say."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import pytest
from sandbox import A, B, C, D, Sandbox

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.course import LEFT_BEFORE, Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import RoundStarted, TaskFailed, UpdateCounted
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.scheduling import Scheduler
from metisfl_async.core.strategies.selection import Selector


def started(
    *learners: LearnerId, num_updates: int = 1000, signals: TerminationSignals | None = None, **options: object
) -> Sandbox:
    """A federation under the Asynchronous scheduler in which these learners train."""
    options = {"aggregation_rule": "FedRec", "evaluate_every": 0} | options
    sandbox = Sandbox(ControllerConfig(scheduler="Asynchronous", **options))  # type: ignore[arg-type]
    sandbox.give_model()
    sandbox.join(*learners)
    sandbox.start(len(learners), signals or TerminationSignals(global_updates=num_updates))
    return sandbox


def commit(sandbox: Sandbox, learner: LearnerId, weight: float = 1.0) -> None:
    """Let a learner report, and a model be made of it."""
    sandbox.train(learner, weight=weight)
    sandbox.publish()


def at_work(sandbox: Sandbox) -> dict[LearnerId, tuple[TaskKind, int]]:
    """Who is awaited, with what, on which model version."""
    awaited = [task for task in sandbox.offers if not task.state.is_final and task.state is not TaskState.FOLDED]
    return {task.learner: (task.kind, task.model_version) for task in awaited}


# --- one update, one model -----------------------------------------------------------------------------------------


def test_each_update_makes_a_model_and_its_learner_gets_that_one_at_once() -> None:
    sandbox = started(A, B)
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 0), B: (TaskKind.TRAIN, 0)}
    sandbox.train(A)
    assert sandbox.aggregating == 1
    assert at_work(sandbox) == {B: (TaskKind.TRAIN, 0)}  # A waits for the model that its update makes
    sandbox.publish()
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 1), B: (TaskKind.TRAIN, 0)}


def test_a_slow_learner_delays_nobody_and_its_update_is_as_stale_as_it_is() -> None:
    sandbox = started(A, B)
    for _ in range(5):
        commit(sandbox, A)
    commit(sandbox, B)
    records = sandbox.records
    assert [record.number for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.model_version for record in records] == [0, 1, 2, 3, 4, 5]
    assert [record.participants for record in records] == [[A]] * 5 + [[B]]
    assert [record.learners[record.participants[0]].staleness for record in records] == [0, 0, 0, 0, 0, 5]
    assert all(record.is_published for record in records)
    assert at_work(sandbox)[B] == (TaskKind.TRAIN, 6)


def test_updates_that_come_while_a_model_is_made_wait_for_the_next() -> None:
    sandbox = started(A, B)
    sandbox.train(A)
    whole = sandbox.upload(B)
    sandbox.publish()
    assert sandbox.aggregating is None
    sandbox.fold(whole)
    assert sandbox.aggregating == 2
    assert whole.part.staleness == 1
    sandbox.publish()
    assert [record.participants for record in sandbox.records] == [[A], [B]]


def test_a_late_joiner_starts_at_once() -> None:
    sandbox = started(A)
    commit(sandbox, A)
    sandbox.join(B)
    assert at_work(sandbox)[B] == (TaskKind.TRAIN, 1)
    sandbox.train(A)
    sandbox.join(C)  # while a model is being made: with that one
    assert C not in at_work(sandbox)
    sandbox.publish()
    assert at_work(sandbox)[C] == (TaskKind.TRAIN, 2)


def test_a_learner_that_fetched_a_newer_model_than_it_was_told_trained_that_one() -> None:
    sandbox = started(A, B)
    commit(sandbox, A)
    sandbox.served(B, 1)
    sandbox.served(D, 1)  # has no task
    commit(sandbox, A)
    sandbox.served(B, 2)  # fetched after it has trained
    sandbox.begin_upload(B, trained_from=1)
    sandbox.train(B)
    assert sandbox.task(B).part.staleness == 1


@pytest.mark.parametrize(("said", "staleness"), [(0, 3), (2, 1), (3, 1), (2**63, 1)])
def test_what_an_update_says_it_was_trained_from_is_believed_as_far_as_it_can_be(said: int, staleness: int) -> None:
    sandbox = started(A, B)
    for _ in range(2):
        commit(sandbox, A)
    sandbox.served(B, 2)
    commit(sandbox, A)
    assert sandbox.begin_upload(B, said).model_version == 3 - staleness


def test_watchers_see_who_is_asked_and_who_counted() -> None:
    sandbox = started(A, B)
    commit(sandbox, A)
    rounds = [(event.number, event.model_version, event.cohort) for event in sandbox.events_of(RoundStarted)]
    assert rounds == [(1, 0, [A, B]), (2, 1, [A])]
    assert [(event.number, event.learner) for event in sandbox.events_of(UpdateCounted)] == [(1, A)]


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_who_reported_evaluates_its_model_and_trains_that_one_next() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, A)
    assert at_work(sandbox)[A] == (TaskKind.EVALUATE, 1)
    commit(sandbox, B)
    sandbox.evaluate(A, accuracy=0.5)
    assert at_work(sandbox)[A] == (TaskKind.TRAIN, 1)  # the model moved once
    assert sandbox.records[0].evaluation_metrics == {"accuracy": 0.5}


def test_a_record_says_which_model_was_evaluated() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, A)
    commit(sandbox, B)
    sandbox.served(A, 2)  # the newest is given
    sandbox.evaluate(A, accuracy=0.5)
    sandbox.evaluate(B, accuracy=0.5)
    first, second = sandbox.records
    assert (first.learners[A].evaluated_version, second.learners[B].evaluated_version) == (2, 2)
    assert at_work(sandbox)[A] == (TaskKind.TRAIN, 2)  # it has that one


def test_every_kth_model_is_evaluated() -> None:
    sandbox = started(A, evaluate_every=3)
    for number in range(1, 7):
        commit(sandbox, A)
        if number % 3 == 0:
            sandbox.evaluate(A, accuracy=number)
    measured = [record.evaluation_metrics for record in sandbox.records]
    assert measured == [{}, {}, {"accuracy": 3.0}, {}, {}, {"accuracy": 6.0}]


def test_the_mean_evaluation_is_that_of_everybodys_latest() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, A, weight=1.0)
    sandbox.evaluate(A, accuracy=0.0)
    commit(sandbox, B, weight=3.0)
    sandbox.evaluate(B, accuracy=1.0)
    assert sandbox.records[1].evaluation_metrics == {"accuracy": 0.75}
    assert sandbox.records[1].learners.keys() == {B}
    sandbox.leave(A)
    commit(sandbox, B, weight=3.0)
    sandbox.evaluate(B, accuracy=0.5)
    assert sandbox.records[2].evaluation_metrics == {"accuracy": 0.5}
    assert sandbox.records[2].evaluation_weighted_by == "scaling_factor"


def test_the_mean_evaluation_counts_by_examples_where_all_say_how_many() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, A, weight=900.0)
    sandbox.evaluate(A, accuracy=1.0, num_examples=10.0)
    commit(sandbox, B, weight=100.0)
    sandbox.evaluate(B, accuracy=0.0, num_examples=990.0)
    assert sandbox.records[1].evaluation_metrics == {"accuracy": 0.01}
    assert sandbox.records[1].evaluation_weighted_by == "num_examples"
    commit(sandbox, B, weight=100.0)
    sandbox.evaluate(B, accuracy=0.0)
    assert sandbox.records[2].evaluation_metrics == {"accuracy": 0.9}
    assert sandbox.records[2].evaluation_weighted_by == "scaling_factor"
    commit(sandbox, B, weight=100.0)
    sandbox.evaluate(B, num_examples=0.0)
    assert (sandbox.records[3].evaluation_metrics, sandbox.records[3].evaluation_weighted_by) == (
        {"accuracy": 1.0},
        "num_examples",
    )


def test_a_record_is_there_when_its_evaluation_is_whatever_came_meanwhile() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, A)
    commit(sandbox, B)
    sandbox.evaluate(B, accuracy=0.5)
    assert [record.number for record in sandbox.records] == [2]
    sandbox.fail(A, "no data")
    assert [record.number for record in sandbox.records] == [1, 2]
    assert at_work(sandbox)[A] == (TaskKind.TRAIN, 2)  # a failed evaluation is no reason not to train


def test_a_learner_that_is_away_does_not_evaluate() -> None:
    sandbox = started(A, B, evaluate_every=1)
    sandbox.train(A)
    sandbox.disconnect(A)
    sandbox.publish()
    assert [record.number for record in sandbox.records] == [1]
    sandbox.come_back(A)
    assert at_work(sandbox)[A] == (TaskKind.TRAIN, 1)


# --- the end -------------------------------------------------------------------------------------------------------


def test_it_ends_after_so_many_global_updates_and_their_evaluation() -> None:
    sandbox = started(A, B, num_updates=2, evaluate_every=1)
    commit(sandbox, A)
    sandbox.evaluate(A, accuracy=0.1)
    whole = sandbox.upload(A)
    commit(sandbox, B)
    assert whole.state is TaskState.CANCELLED
    assert sandbox.finish is None
    assert at_work(sandbox) == {B: (TaskKind.EVALUATE, 2)}
    sandbox.join(C)  # gets nothing to do any more
    assert C not in at_work(sandbox)
    sandbox.evaluate(B, accuracy=0.2)
    assert sandbox.finish is not None
    assert (sandbox.finish.reason, sandbox.finish.ending) == ("global_updates=2 reached", Ending.GLOBAL_UPDATES)
    assert [record.number for record in sandbox.records] == [1, 2]


def test_without_evaluation_it_ends_with_the_last_model() -> None:
    sandbox = started(A, num_updates=1)
    commit(sandbox, A)
    assert sandbox.finish is not None
    assert sandbox.phase() is Phase.FINISHED


def test_it_ends_with_the_score_and_by_time() -> None:
    by_score = started(
        A,
        B,
        evaluate_every=1,
        signals=TerminationSignals(evaluation_metric="loss", evaluation_metric_cutoff_score=0.0, mode="min"),
    )
    commit(by_score, A)
    commit(by_score, B)
    by_score.evaluate(A, loss=0.5)
    assert by_score.finish is None
    by_score.evaluate(B, loss=-0.5)
    assert by_score.finish is not None
    assert by_score.finish.reason == "loss=0 reached evaluation_metric_cutoff_score=0"
    by_time = started(A, B, signals=TerminationSignals(execution_cutoff_time_mins=1))
    by_time.train(A)
    by_time.wait(60)
    assert by_time.finish is None  # a model is being made of what was folded in time
    by_time.publish()
    assert by_time.finish is not None
    assert not by_time.finish.ending.is_failure
    assert [record.is_published for record in by_time.records] == [True]


def test_stopping_closes_what_is_open() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, A)
    sandbox.stop("enough")
    assert at_work(sandbox) == {}
    assert [record.number for record in sandbox.records] == [1]
    assert sandbox.published(2) == []


def test_rounds_cannot_be_counted_here() -> None:
    sandbox = Sandbox(ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec"))
    with pytest.raises(ConfigError, match="federation_rounds is 3; allowed: None with Asynchronous"):
        sandbox.start(1, TerminationSignals(federation_rounds=3))
    with pytest.raises(ConfigError, match="global_updates is 3; allowed: None with rounds"):
        Sandbox().start(1, TerminationSignals(global_updates=3))


# --- failures ------------------------------------------------------------------------------------------------------


def test_who_failed_is_asked_again_with_the_next_model() -> None:
    sandbox = started(A, B)
    sandbox.fail(A)
    assert A not in at_work(sandbox)
    sandbox.join(A)  # connecting again is no way around it
    assert A not in at_work(sandbox)
    commit(sandbox, B)
    assert at_work(sandbox)[A] == (TaskKind.TRAIN, 1)
    (record,) = sandbox.records
    assert [failure.message for failure in record.learners[A].failures] == ["no data"]
    assert record.participants == [B]


def test_when_everybody_fails_all_are_asked_again_a_few_times() -> None:
    sandbox = started(A, B, max_failed_rounds=3)
    for attempt in range(3):
        assert len(at_work(sandbox)) == 2, attempt
        sandbox.fail(A)
        sandbox.fail(B)
    assert sandbox.finish is not None
    assert sandbox.finish.ending.is_failure
    assert sandbox.finish.reason == (
        "nobody could train for model version 1, 3 times in a row; last: a, b: ValueError: no data"
    )
    assert [record.is_published for record in sandbox.records] == [False] * 3


def test_a_success_forgives_the_failures_before() -> None:
    sandbox = started(A, max_failed_rounds=2)
    for _ in range(5):
        sandbox.fail(A)
        commit(sandbox, A)
    assert sandbox.finish is None


def test_a_lost_learner_is_not_waited_for_and_its_share_is_taken_out() -> None:
    sandbox = started(A, B)
    commit(sandbox, A)
    sandbox.leave(A)
    assert sandbox.forgotten == [A]
    assert at_work(sandbox) == {B: (TaskKind.TRAIN, 0)}
    sandbox.leave(B)  # has never reported
    assert sandbox.forgotten == [A]
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(A)
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 1)}


def test_a_learner_that_left_while_its_update_was_folded_is_forgotten_after_it() -> None:
    sandbox = started(A, B)
    whole = sandbox.upload(A)
    sandbox.leave(A)
    assert sandbox.forgotten == []
    sandbox.fold(whole)
    assert sandbox.forgotten == [A]
    assert sandbox.aggregating is None  # nothing is left of it
    commit(sandbox, B)
    assert sandbox.records[0].participants == [B]
    (failure,) = sandbox.records[0].learners[A].failures
    assert failure.message == LEFT_BEFORE


def test_who_takes_too_long_is_given_the_newest_model_instead() -> None:
    sandbox = started(A, B, round_timeout_secs=10.0)
    slow = sandbox.task(B)
    for _ in range(3):
        sandbox.wait(4)
        if slow.state.is_final:
            break
        commit(sandbox, A)
    assert slow.state is TaskState.EXPIRED
    assert sandbox.withdrawn == [slow]
    assert "round_timeout_secs=10" in sandbox.events_of(TaskFailed)[0].message
    commit(sandbox, A)
    assert at_work(sandbox)[B] == (TaskKind.TRAIN, 3)
    sandbox.wait(30)  # each has its own ten seconds, again and again
    assert sandbox.finish is not None  # nobody ever comes
    assert "nobody could train" in sandbox.finish.reason


def test_an_update_that_is_whole_at_the_deadline_counts() -> None:
    sandbox = started(A, round_timeout_secs=10.0)
    whole = sandbox.upload(A)
    sandbox.wait(10)
    assert sandbox.finish is None
    sandbox.fold(whole)
    sandbox.publish()
    assert sandbox.records[0].participants == [A]


def test_an_answer_that_was_lost_is_given_again() -> None:
    sandbox = started(A, B)
    done = sandbox.task(A)
    commit(sandbox, A)
    reply = sandbox.admit(A, done.id)
    assert not isinstance(reply, Task)
    assert reply.is_counted
    for _ in range(20):
        commit(sandbox, B)
    assert sandbox.come_back(A, [(done.id, True)])[done.id][1] == "it was counted already"


# --- who is there --------------------------------------------------------------------------------------------------


def test_no_new_work_is_given_while_too_few_are_connected() -> None:
    sandbox = started(A, B, min_learners=2, quorum_timeout_secs=60.0)
    sandbox.disconnect(B)
    commit(sandbox, A)
    assert at_work(sandbox) == {B: (TaskKind.TRAIN, 0)}  # B may come back with it
    sandbox.leave(B)
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(B)
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 1), B: (TaskKind.TRAIN, 1)}
    sandbox.leave(A)
    sandbox.leave(B)
    sandbox.wait(60)
    assert sandbox.finish is not None
    assert sandbox.finish.ending.is_failure


def test_the_participation_ratio_is_the_share_at_work_at_a_time() -> None:
    sandbox = started(A, B, C, D, participation_ratio=0.5)
    assert len(at_work(sandbox)) == 2
    for _ in range(20):
        learner = next(iter(at_work(sandbox)))
        commit(sandbox, learner)
        assert len(at_work(sandbox)) == 2
    assert {record.participants[0] for record in sandbox.records} == {A, B, C, D}


# --- other rules, schedulers and selectors -------------------------------------------------------------------------


def test_a_mean_of_updates_is_that_of_everybodys_latest() -> None:
    sandbox = started(A, B, C, aggregation_rule="FedAvg")
    commit(sandbox, A)
    assert list(sandbox.others) == []
    commit(sandbox, B)
    assert list(sandbox.others) == [A]
    sandbox.leave(A)
    commit(sandbox, C)
    assert list(sandbox.others) == [B]
    assert sandbox.strategies.keeps_updates


def test_a_rule_may_want_several_updates_a_model() -> None:
    sandbox = started(A, B, aggregation_rule=FedBuff(3))
    sandbox.moved(A, sent=5)
    sandbox.train(A)
    assert at_work(sandbox)[A] == (TaskKind.TRAIN, 0)  # goes on with the model there is
    sandbox.moved(A, sent=7)
    sandbox.train(A)
    assert sandbox.aggregating is None
    sandbox.train(B)
    sandbox.publish()
    (record,) = sandbox.records
    assert record.participants == [A, A, B]
    assert record.learners[A].bytes_sent == 12  # both of its tasks
    assert record.aggregation_block_size == [3]
    assert not sandbox.strategies.keeps_updates


def test_a_buffer_that_is_half_full_survives_a_failure() -> None:
    sandbox = started(A, aggregation_rule=FedBuff(2), max_failed_rounds=2)
    sandbox.train(A)
    sandbox.fail(A)
    sandbox.train(A)
    assert sandbox.aggregating == 1


def test_an_update_that_counted_stays_in_the_record_when_its_learner_fails_afterwards() -> None:
    sandbox = started(A, B, aggregation_rule=FedBuff(2))
    sandbox.moved(A, sent=5)
    sandbox.train(A, weight=3.0, loss=0.5)
    sandbox.moved(A, sent=7)
    sandbox.fail(A)
    commit(sandbox, B)
    (record,) = sandbox.records
    part = record.learners[A]
    assert (part.train_state, part.weight, part.train_metrics) == ("counted", 3.0, {"loss": 0.5})
    assert part.bytes_sent == 12
    assert [failure.message for failure in part.failures] == ["no data"]
    assert record.participants == [A, B]
    assert record.train_metrics == {"loss": 0.5}


class Pairs(Scheduler):
    """Makes a model of every two updates."""

    in_rounds = False

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return len(reported) == 2


class Alphabetic(Selector):
    """Lets one learner work at a time."""

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        return candidates[: 1 - num_busy]


def test_a_scheduler_and_a_selector_of_the_users_own() -> None:
    config = ControllerConfig(scheduler=Pairs(), selector=Alphabetic(), aggregation_rule="FedRec", evaluate_every=0)
    sandbox = Sandbox(config)
    sandbox.give_model()
    sandbox.join(A, B)
    sandbox.start(2, TerminationSignals(global_updates=1))
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 0)}
    sandbox.train(A)
    assert sandbox.aggregating is None
    sandbox.train(A)
    sandbox.publish()
    assert sandbox.finish is not None


class Lazy(Selector):
    """Wants nobody as long as somebody works."""

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        return () if num_busy else candidates[:1]


def test_a_selector_may_want_nobody_while_somebody_works() -> None:
    sandbox = started(A, B, selector=Lazy())
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 0)}
    sandbox.join(C)
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 0)}


def test_two_may_evaluate_one_model() -> None:
    config = ControllerConfig(scheduler=Pairs(), aggregation_rule="FedRec", selector=Once())
    sandbox = Sandbox(config)
    sandbox.give_model()
    sandbox.join(A, B)
    sandbox.start(2, TerminationSignals(global_updates=5))
    sandbox.train(A, B)
    sandbox.publish()
    assert at_work(sandbox) == {A: (TaskKind.EVALUATE, 1), B: (TaskKind.EVALUATE, 1)}
    sandbox.evaluate(A, accuracy=0.0)
    assert sandbox.records == []
    sandbox.evaluate(B, accuracy=1.0)
    assert sandbox.records[0].evaluation_metrics == {"accuracy": 0.5}


class Once(Selector):
    """Lets everybody work once in each version."""

    def __init__(self) -> None:
        self.asked: set[LearnerId] = set()

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        chosen = [learner for learner in candidates if learner not in self.asked]
        self.asked.update(chosen)
        return chosen or (() if num_busy else candidates)


# --- what is remembered --------------------------------------------------------------------------------------------


def test_of_learners_that_come_once_nothing_is_remembered() -> None:
    sandbox = started(A, evaluate_every=1)
    federation = sandbox.federation

    def remembered() -> dict[str, int]:
        return {name: len(value) for name, value in vars(federation).items() if isinstance(value, dict | set | list)}

    for number in range(60):
        learner = LearnerId(f"once-{number}")
        sandbox.join(learner)
        if number % 4 == 0:
            sandbox.fail(learner)
        elif number % 4 == 1:
            sandbox.disconnect(learner)
        else:
            sandbox.train(learner, processing_ms_per_batch=1.0, processing_ms_per_epoch=9.0)
            sandbox.publish()
            if number % 4 == 2:
                sandbox.evaluate(learner, accuracy=0.5)
        sandbox.leave(learner)
        if number == 19:
            before = remembered()
    assert remembered() == before


def test_an_evaluation_does_not_outlive_its_learners_stay() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, B)
    sandbox.evaluate(B, accuracy=0.0)
    sandbox.leave(B)
    sandbox.join(B)
    commit(sandbox, A)
    sandbox.evaluate(A, accuracy=1.0)
    assert sandbox.records[-1].evaluation_metrics == {"accuracy": 1.0}


def test_who_failed_and_left_is_asked_again_when_it_comes_back() -> None:
    sandbox = started(A, B)
    sandbox.fail(B)
    sandbox.leave(B)
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 0)}
    sandbox.join(B)
    assert at_work(sandbox) == {A: (TaskKind.TRAIN, 0), B: (TaskKind.TRAIN, 0)}


def test_who_came_back_while_its_model_was_made_evaluates_it_with_the_weight_of_its_update() -> None:
    sandbox = started(A, B, evaluate_every=1)
    commit(sandbox, B, weight=1.0)
    sandbox.evaluate(B, accuracy=0.0)
    sandbox.train(A, weight=3.0)
    sandbox.leave(A)
    sandbox.join(A)
    sandbox.publish()
    sandbox.evaluate(A, accuracy=1.0)
    assert sandbox.records[-1].evaluation_metrics == {"accuracy": 0.75}
