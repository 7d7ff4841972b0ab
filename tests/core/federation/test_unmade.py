"""A global model that could not be made: its updates stay folded, and the next attempt has them."""

from __future__ import annotations

from sandbox import A, B, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import FederationFinished

IN_ROUNDS = ControllerConfig(evaluate_every=0, max_failed_rounds=2)
WITHOUT = ControllerConfig(evaluate_every=0, scheduler="Asynchronous", aggregation_rule="FedRec", max_failed_rounds=2)
ENDLESS = TerminationSignals(execution_cutoff_time_mins=10)


def unmade(sandbox: Sandbox) -> None:
    assert sandbox.aggregating is not None
    sandbox.aggregating = None
    sandbox.hear(happened.Unpublished("there is no memory", keeps_updates=True, may_pass=True))


def test_the_round_fails_and_the_next_one_has_its_updates() -> None:
    sandbox = training(A, B, config=IN_ROUNDS)
    sandbox.train(A, B)
    unmade(sandbox)
    assert [record.is_published for record in sandbox.records] == [False]
    assert sandbox.aggregating == 1  # at once: nobody is to be asked again
    sandbox.publish()
    assert [task.learner for task in sandbox.offers] == [A, B, A, B]
    assert len(sandbox.told) == 2


def test_the_round_in_which_nobody_trained_took_all_its_time_to_aggregate() -> None:
    sandbox = training(A, B, config=IN_ROUNDS)
    sandbox.wait(5)
    sandbox.train(A, B)
    sandbox.wait(2)
    unmade(sandbox)
    sandbox.wait(3)
    sandbox.publish()
    record = sandbox.records[-1]
    assert (record.dispatch_ms, record.train_ms, record.aggregation_ms, record.duration_ms) == (0, 0, 3_000, 3_000)


def test_when_it_fails_too_often_the_federation_ends() -> None:
    sandbox = training(A, config=IN_ROUNDS)
    sandbox.train(A)
    unmade(sandbox)
    unmade(sandbox)
    (finished,) = sandbox.events_of(FederationFinished)
    assert (finished.is_failure, finished.ending) == (True, Ending.NO_MODEL)
    assert finished.reason == "no model could be published, 2 times in a row; last: there is no memory"


def test_without_rounds_it_is_tried_again_too() -> None:
    sandbox = training(A, config=WITHOUT, signals=ENDLESS)
    sandbox.train(A)
    unmade(sandbox)
    assert sandbox.aggregating == 1
    sandbox.publish()
    assert sandbox.federation.model_version == 1


def test_an_end_that_waits_for_it_waits_no_longer() -> None:
    sandbox = training(A, config=IN_ROUNDS)
    sandbox.train(A)
    sandbox.stop("enough")
    assert sandbox.phase() is Phase.AGGREGATING
    unmade(sandbox)
    assert sandbox.phase() is Phase.FINISHED
    assert sandbox.events_of(FederationFinished)[0].reason == "enough"


def test_one_that_is_not_awaited_changes_nothing() -> None:
    sandbox = training(A)
    assert sandbox.hear(happened.Unpublished("there is no memory", keeps_updates=True, may_pass=True)) == []
