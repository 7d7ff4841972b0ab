"""How a federation gathers its learners and its first weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sandbox import A, B, C, D, Sandbox, training

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.federation.commands import Finish
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import RoundStarted, UpdateFolded
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId

# --- start ---------------------------------------------------------------------------------------------------------


def test_training_waits_for_the_number_of_learners_that_the_driver_names() -> None:
    sandbox = Sandbox()
    sandbox.give_model()
    sandbox.start(num_learners=3)
    sandbox.join(A, B)
    assert sandbox.phase() is Phase.GATHERING
    assert sandbox.offers == []
    sandbox.join(C)
    assert sandbox.phase() is Phase.TRAINING
    assert [task.learner for task in sandbox.offers] == [A, B, C]


def test_learners_may_be_there_before_the_start() -> None:
    sandbox = Sandbox()
    sandbox.join(A, B)
    assert sandbox.phase() is Phase.IDLE
    sandbox.give_model()
    sandbox.start(num_learners=2)
    assert sandbox.phase() is Phase.TRAINING


def test_a_learner_that_has_gone_again_is_not_enough_to_start() -> None:
    sandbox = Sandbox()
    sandbox.start(num_learners=3)
    sandbox.join(A, B)
    sandbox.leave(A)
    sandbox.disconnect(B)
    sandbox.join(C)
    assert sandbox.federation.connected == [C]
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(B, A)
    assert sandbox.federation.connected == [A, B, C]
    assert sandbox.phase() is Phase.INITIALISING


def test_the_start_waits_for_the_quorum_where_the_driver_names_fewer() -> None:
    sandbox = Sandbox(ControllerConfig(min_learners=2))
    sandbox.start(num_learners=1)
    sandbox.join(A)
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(B)
    assert sandbox.phase() is Phase.INITIALISING


def test_a_second_start_is_refused_and_changes_nothing() -> None:
    sandbox = training(A)
    with pytest.raises(UnexpectedMessage, match="training was started before; the federation is training"):
        sandbox.start(num_learners=5)
    sandbox.train(A)
    assert sandbox.phase() is Phase.AGGREGATING


def test_too_few_learners_in_time_end_it_as_a_failure_that_names_who_came() -> None:
    sandbox = Sandbox()
    sandbox.start(num_learners=3, join_timeout_s=20.0)
    sandbox.wait(5.0)
    sandbox.join(B, A)
    sandbox.wait(14.9)
    assert sandbox.finish is None
    sandbox.wait(0.2)
    assert sandbox.finish == Finish("2 of 3 learners are connected after 20 s (a, b)", Ending.QUORUM_LOST)


def test_no_learner_in_time_is_said_too() -> None:
    sandbox = Sandbox()
    sandbox.start(join_timeout_s=1.5)
    sandbox.wait(1.5)
    assert sandbox.finish == Finish("0 of 1 learners are connected after 2 s (nobody)", Ending.QUORUM_LOST)


def test_without_a_timeout_learners_are_waited_for_and_with_enough_of_them_the_timeout_is_over() -> None:
    sandbox = Sandbox()
    sandbox.start()
    assert sandbox.timers == {}
    sandbox = Sandbox()
    sandbox.start(join_timeout_s=20.0)
    assert sandbox.timers == {"gather": 1020.0}
    sandbox.join(A)
    assert sandbox.timers == {}
    assert sandbox.fire("gather") == []  # fired when it was stopped


# --- first weights -------------------------------------------------------------------------------------------------


def asked_first(seed: int) -> LearnerId:
    sandbox = Sandbox()
    sandbox.start(num_learners=4, seed=seed)
    sandbox.join(D, B, A, C)
    (task,) = sandbox.offers
    assert (task.kind, task.round_number, task.model_version) == (TaskKind.GET_WEIGHTS, 0, 0)
    return task.learner


def test_the_learner_that_gives_the_first_weights_is_drawn_with_the_seed() -> None:
    drawn = [asked_first(seed) for seed in range(40)]
    assert drawn == [asked_first(seed) for seed in range(40)]
    assert set(drawn) == {A, B, C, D}


def test_the_order_of_joining_does_not_change_who_gives_the_first_weights() -> None:
    sandbox = Sandbox()
    sandbox.start(num_learners=4, seed=7)
    sandbox.join(A, B, C, D)
    assert sandbox.offers[0].learner == asked_first(7)


def test_first_weights_become_version_0_and_the_first_round_starts() -> None:
    sandbox = Sandbox()
    sandbox.start(num_learners=2)
    sandbox.join(A, B)
    assert sandbox.federation.model_version is None
    sandbox.train(sandbox.offers[0].learner)
    assert sandbox.federation.model_version == 0
    assert sandbox.events_of(RoundStarted) == [RoundStarted(1, 0, [A, B])]
    assert sandbox.events_of(UpdateFolded) == []


def test_where_weights_are_given_nobody_is_asked_for_them() -> None:
    sandbox = Sandbox()
    sandbox.give_model()
    sandbox.start()
    sandbox.join(A)
    assert [task.kind for task in sandbox.offers] == [TaskKind.TRAIN]


def fails(sandbox: Sandbox, learner: LearnerId) -> None:
    sandbox.fail(learner)


def leaves(sandbox: Sandbox, learner: LearnerId) -> None:
    sandbox.leave(learner)
    sandbox.join(learner)  # still not asked again


def returns_without_it(sandbox: Sandbox, learner: LearnerId) -> None:
    sandbox.accept(learner)
    sandbox.join(learner)


def sends_nan(sandbox: Sandbox, learner: LearnerId) -> None:
    sandbox.rejected(sandbox.upload(learner), "NotFinite", "tensor '0' holds NaN")


def is_too_slow(sandbox: Sandbox, learner: LearnerId) -> None:
    sandbox.accept(learner)
    sandbox.wait(60.0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("disappoint", [fails, leaves, returns_without_it, sends_nan, is_too_slow])
def test_where_one_learner_gives_no_first_weights_another_one_is_asked(
    disappoint: Callable[[Sandbox, LearnerId], None], seed: int
) -> None:
    sandbox = Sandbox(ControllerConfig(round_timeout_secs=60.0))
    sandbox.start(num_learners=3, seed=seed)
    sandbox.join(A, B, C)
    for attempt in (1, 2):
        disappoint(sandbox, sandbox.offers[-1].learner)
        assert len({task.learner for task in sandbox.offers}) == attempt + 1
    sandbox.train(sandbox.offers[-1].learner)
    assert sandbox.phase() is Phase.TRAINING


def test_once_every_learner_has_failed_to_give_first_weights_they_are_asked_again() -> None:
    sandbox = Sandbox(ControllerConfig(max_failed_rounds=9))
    sandbox.start(num_learners=2)
    sandbox.join(A, B)
    for _ in range(4):
        sandbox.fail(sandbox.offers[-1].learner)
    sandbox.train(sandbox.offers[-1].learner)
    assert sandbox.phase() is Phase.TRAINING


def test_a_federation_without_first_weights_ends_as_a_failure_that_names_each_error() -> None:
    sandbox = Sandbox(ControllerConfig(max_failed_rounds=5))
    sandbox.start(num_learners=1)
    sandbox.join(A)
    sandbox.fail(A, "no data")
    sandbox.fail(A, "", "KeyError")
    sandbox.leave(A)
    sandbox.join(A)
    for _ in range(2):
        sandbox.fail(A, "no data")
    assert sandbox.finish == Finish(
        "no learner gave the first weights, 5 times in a row; "
        "last: a: ValueError: no data; a: KeyError; a: lost: it left",
        Ending.QUORUM_LOST,
    )
    assert sandbox.records == []


def test_first_weights_count_though_their_learner_left_and_the_first_round_waits_for_a_quorum() -> None:
    sandbox = Sandbox()
    sandbox.start()
    sandbox.join(A)
    whole = sandbox.upload(A)
    sandbox.leave(A)
    sandbox.fold(whole)
    assert sandbox.federation.model_version == 0
    assert sandbox.phase() is Phase.GATHERING
    assert sandbox.timers == {"gather": 1600.0}
    sandbox.join(B)
    assert sandbox.events[-1] == RoundStarted(1, 0, [B])
