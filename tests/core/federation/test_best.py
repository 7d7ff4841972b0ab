"""Which global model is kept as the best."""

from __future__ import annotations

import math

import pytest
from sandbox import A, B, Sandbox, training

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.inputs import CentralEvaluation, Start
from metisfl_async.core.federation.records import BestScore
from metisfl_async.core.federation.standing import Standing

ACCURACY = ControllerConfig(best_metric="accuracy")
ROUNDS = TerminationSignals(federation_rounds=9)


def measure(sandbox: Sandbox, *scores: float, name: str = "accuracy") -> None:
    """Go through a round whose model has these scores, one of each learner."""
    learners = (A, B)[: len(scores)]
    sandbox.train(*learners)
    sandbox.publish()
    for learner, score in zip(learners, scores, strict=True):
        sandbox.evaluate(learner, **{name: score})


def test_it_is_the_first_of_those_that_score_best() -> None:
    sandbox = training(A, config=ACCURACY)
    for score in (0.5, 0.75, 0.25, math.nan, 0.75):
        measure(sandbox, score)
    assert sandbox.best_versions == [1, 2]
    assert sandbox.federation.standing.best == BestScore("accuracy", 0.75, 2, 2)


def test_a_low_score_is_the_best_of_what_should_be_low() -> None:
    sandbox = training(A, config=ControllerConfig(best_metric="loss", best_mode="min"))
    for score in (0.5, 0.75, -math.inf, -math.inf):
        measure(sandbox, score, name="loss")
    assert sandbox.best_versions == [1, 3]


def test_a_round_without_its_metric_changes_nothing() -> None:
    sandbox = training(A, config=ControllerConfig(best_metric="accuracy", evaluate_every=2))
    sandbox.train(A)
    sandbox.publish()
    measure(sandbox, 0.5)
    assert sandbox.best_versions == [2]
    sandbox.train(A)
    sandbox.publish()
    measure(sandbox, 0.75, name="f1")
    assert sandbox.best_versions == [2]


def test_which_of_the_learners_scores_counts_is_the_configurations_choice() -> None:
    sandbox = training(A, B, config=ControllerConfig(best_metric="accuracy", cutoff_score="quorum", min_learners=2))
    measure(sandbox, 0.5, 0.5)
    measure(sandbox, 0.25, 99.0)  # one of them lies
    assert sandbox.best_versions == [1]


def test_it_may_be_measured_by_the_driver() -> None:
    sandbox = Sandbox(ControllerConfig(best_metric="central/loss", best_mode="min", evaluate_every=0))
    sandbox.give_model()
    sandbox.start(1, ROUNDS, evaluates=True)
    sandbox.join(A)
    for version, loss in enumerate((2.0, 1.0, 3.0), 1):
        sandbox.train(A)
        sandbox.publish()
        sandbox.hear(CentralEvaluation(version, {"loss": loss}))
    assert sandbox.federation.standing.best == BestScore("central/loss", 1.0, 2, 2)


def test_a_driver_that_does_not_evaluate_cannot_start_it() -> None:
    sandbox = Sandbox(ControllerConfig(best_metric="central/loss"))
    with pytest.raises(ConfigError) as error:
        sandbox.hear(Start(ROUNDS, 1, 0, None, True))
    assert (error.value.field, error.value.value) == ("best_metric", "central/loss")


def test_it_survives_with_the_standing() -> None:
    for best in (None, BestScore("accuracy", 0.75, 2, 2)):
        assert Standing.from_json(Standing(best=best).to_json()).best == best


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"best_metric": "accuracy", "evaluate_every": 0}, "learners evaluate nothing"),
        ({"best_metric": "accuracy", "scheduler": "Asynchronous"}, "None with Asynchronous"),
    ],
)
def test_what_would_never_be_measured_is_refused(wrong: dict[str, object], allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed):
        ControllerConfig(**wrong)  # type: ignore[arg-type]
