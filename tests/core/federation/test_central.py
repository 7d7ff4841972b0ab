"""Where the driver evaluates each global model, the round waits for it, but not for ever."""

from __future__ import annotations

import pytest
from sandbox import A, B, Sandbox

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.events import ModelEvaluated, TaskFailed
from metisfl_async.core.federation.inputs import CENTRAL_S
from metisfl_async.core.federation.standing import Standing


def published(config: ControllerConfig | None = None, *, evaluate: bool = True) -> Sandbox:
    """A federation whose first global model has just been published, and evaluated by its learners."""
    sandbox = Sandbox(config or ControllerConfig())
    sandbox.give_model()
    sandbox.start(2, evaluates=True)
    sandbox.join(A, B)
    sandbox.train(A, B)
    sandbox.publish()
    if evaluate:
        sandbox.evaluate(A, B, score=1.0)
    return sandbox


def test_a_round_waits_for_the_driver() -> None:
    sandbox = published()
    assert not sandbox.records
    sandbox.hear(happened.CentralEvaluation(1, {"auc\n": 0.5}))
    (record,) = sandbox.records
    assert (record.central, record.evaluation_metrics) == ({r"auc\n": 0.5}, {"score": 1.0})
    assert ModelEvaluated(1, {r"auc\n": 0.5}) in sandbox.events
    assert "central" not in sandbox.timers
    assert sandbox.federation.phase == "training"


def test_a_driver_that_is_quicker_than_the_learners_does_not_end_the_round() -> None:
    sandbox = published(evaluate=False)
    sandbox.hear(happened.CentralEvaluation(1, {}))
    sandbox.hear(happened.CentralEvaluation(1, {"late": 1.0}))  # it was not heard that the first one had arrived
    assert not sandbox.records
    sandbox.evaluate(A, B, score=1.0)
    assert sandbox.records[0].central == {}


def test_what_is_said_of_another_model_is_nothing() -> None:
    sandbox = published()
    sandbox.hear(happened.CentralEvaluation(2, {"auc": 0.5}))
    assert not sandbox.records


def test_a_driver_that_cannot_evaluate_says_why() -> None:
    sandbox = published()
    sandbox.hear(happened.CentralEvaluation(1, error_type="ValueError", message="no\ndata"))
    assert sandbox.records[0].central == {}
    assert TaskFailed(1, "the driver", "evaluate", "ValueError", r"no\ndata") in sandbox.events


def test_a_driver_at_work_is_waited_for_and_one_that_is_silent_is_not() -> None:
    sandbox = published()
    for _ in range(3):
        sandbox.wait(0.9 * CENTRAL_S)
        sandbox.hear(happened.CentralEvaluation(1))
    assert not sandbox.records
    sandbox.wait(CENTRAL_S)
    assert sandbox.records[0].central == {}
    silent = f"the driver was silent for {CENTRAL_S:g} s"
    assert TaskFailed(1, "the driver", "evaluate", "timeout", silent) in sandbox.events


def test_a_round_waits_no_longer_than_it_may() -> None:
    sandbox = published(ControllerConfig(round_timeout_secs=10.0))
    sandbox.wait(10.0)
    assert sandbox.records[0].central == {}
    assert "central" not in sandbox.timers


def test_a_stop_waits_for_nobody() -> None:
    sandbox = published()
    sandbox.stop()
    assert sandbox.records[0].evaluation_metrics == {"score": 1.0}
    assert sandbox.timers == {}


def test_a_resumed_controller_waits_for_its_driver_again() -> None:
    first = Sandbox(ControllerConfig(), durable_every=1)
    first.give_model()
    first.start(1, evaluates=True)
    first.join(A)
    first.save()
    first.train(A)
    first.publish()
    first.evaluate(A, score=1.0)
    sandbox = Sandbox(ControllerConfig(), durable_every=1)
    sandbox.hear(happened.Resume(Standing.from_json(first.to_save), 1))
    sandbox.come_back(A)
    sandbox.evaluate(A, score=1.0)
    assert not sandbox.records
    sandbox.hear(happened.CentralEvaluation(1, {"auc": 0.5}))
    assert sandbox.records[0].central == {"auc": 0.5}


def test_without_rounds_there_is_nothing_that_could_wait() -> None:
    sandbox = Sandbox(ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedAsync"))
    updates = TerminationSignals(global_updates=9)
    with pytest.raises(ConfigError, match="evaluate is 'a function'; allowed: None with Asynchronous"):
        sandbox.start(1, updates, evaluates=True)
    sandbox.start(1, updates)
    assert sandbox.hear(happened.CentralEvaluation(0, {})) == []
