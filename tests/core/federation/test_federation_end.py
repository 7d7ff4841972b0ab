"""How a federation ends: a signal that is reached, or a stop at any moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sandbox import A, B, C, D, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.commands import Finish
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import FederationFinished, LearnerJoined, LearnerLeft, RoundStarted
from metisfl_async.core.federation.tasks import TaskState

NO_EVALUATION = ControllerConfig(evaluate_every=0)


def test_it_ends_after_as_many_published_rounds_as_were_asked_for() -> None:
    sandbox = training(A, config=NO_EVALUATION, signals=TerminationSignals(federation_rounds=2))
    sandbox.fail(A)
    for _ in range(2):
        assert sandbox.finish is None
        sandbox.train(A)
        sandbox.publish()
    assert sandbox.finish == Finish("federation_rounds=2 reached", Ending.FEDERATION_ROUNDS)
    assert sandbox.events[-1] == FederationFinished("federation_rounds=2 reached", False, Ending.FEDERATION_ROUNDS)
    assert [record.number for record in sandbox.records] == [1, 1, 2]
    assert sandbox.federation.model_version == 2


@pytest.mark.parametrize(
    ("mode", "cutoff", "scores", "reason"),
    [
        ("max", 0.75, [0.5, 0.625, 0.75], "score=0.75 reached evaluation_metric_cutoff_score=0.75"),
        ("min", 0.25, [0.5, 0.375, 0.125], "score=0.125 reached evaluation_metric_cutoff_score=0.25"),
        ("max", 0.0, [-1.0, -0.5, 0.0], "score=0 reached evaluation_metric_cutoff_score=0"),
        ("min", 0.0, [1.0, 0.5, 0.0], "score=0 reached evaluation_metric_cutoff_score=0"),
    ],
)
def test_it_ends_when_the_evaluation_reaches_the_cutoff_score(
    mode: str, cutoff: float, scores: list[float], reason: str
) -> None:
    signals = TerminationSignals(
        evaluation_metric="score",
        evaluation_metric_cutoff_score=cutoff,
        mode=mode,  # type: ignore[arg-type]
    )
    sandbox = training(A, B, signals=signals)
    for score in scores:
        assert sandbox.finish is None
        sandbox.train(A, B)
        sandbox.publish()
        sandbox.evaluate(A, score=score + 1)
        sandbox.evaluate(B, score=score - 1)
    assert sandbox.finish == Finish(reason, Ending.CUTOFF_SCORE)


def test_it_ends_at_the_cutoff_time_which_runs_from_the_moment_that_the_learners_are_there() -> None:
    sandbox = Sandbox(NO_EVALUATION)
    sandbox.start(1, TerminationSignals(execution_cutoff_time_mins=0.5))
    sandbox.wait(100.0)
    sandbox.join(A)
    assert sandbox.timers == {"cutoff": sandbox.now + 30.0}
    sandbox.train(A)
    sandbox.train(A)
    sandbox.publish()
    sandbox.leave(A)
    sandbox.wait(20.0)
    sandbox.join(A)  # gathering again does not start the time anew
    sandbox.wait(10.0)
    assert sandbox.finish == Finish("execution_cutoff_time_mins=0.5 reached", Ending.CUTOFF_TIME)
    assert sandbox.timers == {}


def idle() -> Sandbox:
    return Sandbox()


def gathering() -> Sandbox:
    sandbox = Sandbox()
    sandbox.start(3, join_timeout_s=60.0)
    sandbox.join(A, B)
    return sandbox


def initialising() -> Sandbox:
    sandbox = Sandbox(ControllerConfig(round_timeout_secs=60.0))
    sandbox.start(2)
    sandbox.join(A, B)
    return sandbox


def half_trained() -> Sandbox:
    sandbox = training(A, B, C, config=ControllerConfig(round_timeout_secs=60.0))
    sandbox.train(A)
    sandbox.upload(B)
    return sandbox


def aggregating() -> Sandbox:
    sandbox = training(A, B)
    sandbox.train(A, B)
    return sandbox


def half_evaluated() -> Sandbox:
    sandbox = aggregating()
    sandbox.publish()
    sandbox.evaluate(A)
    return sandbox


def between_rounds() -> Sandbox:
    sandbox = training(A)
    sandbox.train(A)
    sandbox.leave(A)
    sandbox.publish()
    return sandbox


PHASES = [idle, gathering, initialising, half_trained, aggregating, half_evaluated, between_rounds]


@pytest.mark.parametrize("reach", PHASES)
def test_a_stop_ends_it_at_once_whatever_is_under_way(reach: Callable[[], Sandbox]) -> None:
    sandbox = reach()
    was_open = [task for task in sandbox.offers if not task.state.is_final]
    sandbox.stop("enough")
    if sandbox.aggregating is not None:  # what is folded counts, and that takes a moment
        was_open = [task for task in was_open if task.state is not TaskState.FOLDED]
        sandbox.publish()
    assert sandbox.federation.is_finished
    assert sandbox.finish == Finish("enough", Ending.STOPPED)
    assert sandbox.events[-1] == FederationFinished("enough", False)
    assert sandbox.timers == {}
    assert sandbox.mean_of == []
    assert sorted(task.id for task in sandbox.withdrawn) == sorted(task.id for task in was_open)
    assert all(task.state is TaskState.CANCELLED for task in was_open)
    assert len(sandbox.records) == len(sandbox.events_of(RoundStarted))


@pytest.mark.parametrize("reach", PHASES)
def test_nothing_but_joins_and_leaves_happens_after_the_end(reach: Callable[[], Sandbox]) -> None:
    sandbox = reach()
    sandbox.stop("enough")
    if sandbox.aggregating is not None:
        sandbox.publish()
    happened = len(sandbox.events)
    for task in sandbox.offers:
        assert sandbox.accepted(task.learner, task.id) == []
        assert sandbox.failed(task.learner, task.id, "ValueError", "no data") == []
        assert sandbox.evaluated(task.learner, task.id, {}) == []
        assert sandbox.folded(task, 1.0, {}, {}) == []
        assert sandbox.arrived(task) is not None
        assert sandbox.rejected(task) == sandbox.interrupted(task) == []
    assert sandbox.fire("gather") == sandbox.fire("phase") == sandbox.fire("cutoff") == []
    assert sandbox.stop("again") == sandbox.stop("again", ending=Ending.STORE_FAILED) == sandbox.published(9) == []
    sandbox.join(D)
    sandbox.disconnect(D)
    sandbox.leave(D)
    assert [type(event) for event in sandbox.events[happened:]] == [LearnerJoined, LearnerLeft]


def test_a_stop_may_be_a_failure() -> None:
    sandbox = training(A)
    sandbox.stop("the disk is full", ending=Ending.STORE_FAILED)
    assert sandbox.finish == Finish("the disk is full", Ending.STORE_FAILED)


def test_what_a_stopped_round_had_reached_is_on_record() -> None:
    sandbox = half_trained()
    sandbox.stop("enough")
    (record,) = sandbox.records
    assert not record.is_published
    assert [part.train_state for part in record.learners.values()] == ["cancelled", "cancelled", "cancelled"]
    sandbox = half_evaluated()
    sandbox.stop("enough")
    (record,) = sandbox.records
    assert record.is_published
    assert record.learners[B].failures[0].type == "cancelled"
