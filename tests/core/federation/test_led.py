"""A federation that is led does one step when it is told to, and none before."""

from __future__ import annotations

from sandbox import A, B, Sandbox

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation.inputs import Proceed
from metisfl_async.core.federation.led import LedFederation
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import TaskKind

TRAIN, EVALUATE = Proceed(TaskKind.TRAIN), Proceed(TaskKind.EVALUATE)


def led(config: ControllerConfig | None = None) -> Sandbox:
    """Two learners wait, and a model is there."""
    sandbox = Sandbox(config or ControllerConfig(min_learners=2), kind=LedFederation)
    sandbox.give_model()
    sandbox.start(1)
    sandbox.join(A, B)
    return sandbox


def test_a_round_begins_when_it_is_told_to() -> None:
    sandbox = led()
    assert (sandbox.federation.phase, sandbox.offers) == ("gathering", [])
    sandbox.hear(TRAIN)
    assert sandbox.federation.phase == "training"
    sandbox.train(A, B)
    sandbox.publish()  # whoever publishes says whether it is evaluated, or trained from
    assert sandbox.federation.phase == "gathering"
    (record,) = sandbox.records
    assert record.participants == [A, B]
    assert not record.learners[A].evaluation_task_id


def test_the_next_model_is_evaluated_when_it_is_told_to() -> None:
    sandbox = led()
    sandbox.hear(TRAIN)
    sandbox.train(A, B)
    sandbox.hear(EVALUATE)
    sandbox.publish()
    sandbox.evaluate(A, B, score=2.0)
    (record,) = sandbox.records
    assert record.evaluation_metrics == {"score": 2.0}
    assert sandbox.federation.phase == "gathering"


def test_a_round_may_follow_at_once_without_an_evaluation() -> None:
    sandbox = led()
    sandbox.hear(TRAIN)
    sandbox.train(A, B)
    sandbox.hear(EVALUATE)
    sandbox.hear(TRAIN)
    sandbox.publish()
    assert sandbox.federation.phase == "training"
    assert sandbox.records[0].evaluation_metrics == {}


def test_a_round_waits_for_its_learners_and_not_for_ever() -> None:
    sandbox = led(ControllerConfig(min_learners=2, quorum_timeout_secs=30.0))
    sandbox.leave(B)
    sandbox.hear(TRAIN)
    assert sandbox.federation.phase == "gathering"
    sandbox.join(B)
    assert sandbox.federation.phase == "training"
    sandbox.train(A, B)
    sandbox.publish()
    sandbox.leave(B)
    sandbox.hear(TRAIN)
    sandbox.wait(31.0)
    assert sandbox.finish is not None
    assert sandbox.finish.ending.is_failure


def test_what_is_noted_on_a_round_is_saved_before_its_tasks_go_out() -> None:
    sandbox = Sandbox(ControllerConfig(min_learners=2), kind=LedFederation, durable_every=1)
    sandbox.give_model()
    sandbox.start(1)
    sandbox.join(A, B)
    sandbox.hear(Proceed(TaskKind.TRAIN, "for headquarters"))
    assert Standing.from_json(sandbox.saved[-1]).note == "for headquarters"
    assert sandbox.offers == []


def test_others_are_not_led() -> None:
    sandbox = Sandbox()
    sandbox.give_model()
    sandbox.start(2)
    assert sandbox.hear(TRAIN) == []
