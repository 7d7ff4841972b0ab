from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.termination import cutoff_s, reason_to_stop

SCORE = Ending.CUTOFF_SCORE


def record(**metrics: float) -> RoundRecord:
    """A round that was evaluated to these metrics."""
    return RoundRecord(1, 0, evaluation_metrics=metrics)


def stop(
    signals: TerminationSignals,
    num_published: int,
    latest: RoundRecord,
    config: ControllerConfig | None = None,
    scores: Sequence[float] = (),
) -> tuple[str, Ending] | None:
    evaluations = [{"score": score} for score in scores]
    standing = Standing(num_published=num_published)
    return reason_to_stop(signals, standing, latest, config or ControllerConfig(), evaluations)


def test_as_many_models_as_were_asked_for_are_enough() -> None:
    for ending, signals in (
        (Ending.FEDERATION_ROUNDS, TerminationSignals(federation_rounds=2)),
        (Ending.GLOBAL_UPDATES, TerminationSignals(global_updates=2)),
    ):
        assert stop(signals, 1, record()) is None
        assert stop(signals, 2, record()) == (f"{ending}=2 reached", ending)


@pytest.mark.parametrize(
    ("in_rounds", "name", "signals"),
    [
        (True, "global_updates", TerminationSignals(global_updates=2)),
        (False, "federation_rounds", TerminationSignals(federation_rounds=2)),
    ],
)
def test_a_signal_that_the_scheduler_never_reaches_is_refused(
    in_rounds: bool, name: str, signals: TerminationSignals
) -> None:
    with pytest.raises(ConfigError) as error:
        signals.check(in_rounds=in_rounds, evaluate_every=1, evaluates=False)
    assert (error.value.field, error.value.value) == (name, 2)
    signals.check(in_rounds=not in_rounds, evaluate_every=1, evaluates=False)


def test_a_score_that_is_never_measured_is_refused() -> None:
    signals = TerminationSignals(evaluation_metric="accuracy", evaluation_metric_cutoff_score=0.9, federation_rounds=9)
    with pytest.raises(ConfigError) as error:
        signals.check(in_rounds=True, evaluate_every=0, evaluates=False)
    assert (error.value.field, error.value.value) == ("evaluation_metric", "accuracy")
    signals.check(in_rounds=True, evaluate_every=3, evaluates=False)
    TerminationSignals(federation_rounds=9).check(in_rounds=True, evaluate_every=0, evaluates=False)


@pytest.mark.parametrize(
    ("mode", "cutoff", "score", "is_reached"),
    [
        *(("max", 0.9, 0.89, False), ("max", 0.9, 0.9, True), ("max", 0.9, 0.91, True)),
        *(("min", 0.1, 0.11, False), ("min", 0.1, 0.1, True), ("min", 0.1, 0.09, True)),
        *(("max", 0.0, -0.1, False), ("max", 0.0, 0.0, True), ("max", 0.0, 0.1, True)),
        *(("min", 0.0, 0.1, False), ("min", 0.0, 0.0, True), ("min", 0.0, -0.1, True)),
        *(("max", 0.9, math.nan, False), ("min", 0.1, math.nan, False)),
        *(("max", 0.9, math.inf, True), ("min", 0.1, math.inf, False)),
    ],
)
def test_a_score_reaches_its_cutoff_from_below_or_from_above(
    mode: str, cutoff: float, score: float, is_reached: bool
) -> None:
    signals = TerminationSignals(
        evaluation_metric="score",
        evaluation_metric_cutoff_score=cutoff,
        mode=mode,  # type: ignore[arg-type]
    )
    assert (stop(signals, 1, record(score=score)) is not None) is is_reached


def test_only_the_named_metric_is_looked_at() -> None:
    signals = TerminationSignals(evaluation_metric="auc", evaluation_metric_cutoff_score=0.5)
    assert stop(signals, 1, record()) is None
    assert stop(signals, 1, record(accuracy=0.9)) is None
    assert stop(signals, 1, record(auc=0.9)) == ("auc=0.9 reached evaluation_metric_cutoff_score=0.5", SCORE)


def test_a_configuration_knows_which_signals_it_never_reaches() -> None:
    every = TerminationSignals(federation_rounds=2, evaluation_metric="auc", patience_rounds=1)
    ControllerConfig().check_signals(every)
    for config in (ControllerConfig(evaluate_every=0), ControllerConfig(scheduler="Asynchronous")):
        with pytest.raises(ConfigError):
            config.check_signals(every)


def test_what_only_the_session_measures_needs_its_function_and_no_learner() -> None:
    central = TerminationSignals(evaluation_metric="central/auc", patience_rounds=1)
    central.check(in_rounds=True, evaluate_every=0, evaluates=True)
    with pytest.raises(ConfigError, match="evaluation_metric is 'central/auc'; allowed: a metric of the learners"):
        central.check(in_rounds=True, evaluate_every=1, evaluates=False)
    with pytest.raises(ConfigError, match="evaluate is 'a function'; allowed: None with Asynchronous"):
        central.check(in_rounds=False, evaluate_every=1, evaluates=True)


def test_a_central_evaluation_is_named_with_a_word_before_it() -> None:
    signals = TerminationSignals(evaluation_metric="central/auc", evaluation_metric_cutoff_score=0.5)
    latest = RoundRecord(1, 0, evaluation_metrics={"auc": 0.9}, central={"auc": 0.4})
    for config in (ControllerConfig(), ControllerConfig(cutoff_score="median")):
        latest.central = {"auc": 0.4}
        assert stop(signals, 1, latest, config) is None
        latest.central = {"auc": 0.5}
        assert stop(signals, 1, latest, config) == ("central/auc=0.5 reached evaluation_metric_cutoff_score=0.5", SCORE)


def test_the_first_signal_that_is_reached_ends_it() -> None:
    signals = TerminationSignals(
        federation_rounds=3, evaluation_metric="auc", evaluation_metric_cutoff_score=0.5, execution_cutoff_time_mins=1.0
    )
    assert stop(signals, 1, record(auc=0.1)) is None
    assert stop(signals, 1, record(auc=0.5)) == ("auc=0.5 reached evaluation_metric_cutoff_score=0.5", SCORE)
    assert stop(signals, 3, record(auc=0.1)) == ("federation_rounds=3 reached", Ending.FEDERATION_ROUNDS)


def test_the_cutoff_time_is_given_in_minutes_and_kept_in_seconds() -> None:
    assert cutoff_s(TerminationSignals(execution_cutoff_time_mins=1.5)) == 90.0
    assert cutoff_s(TerminationSignals(federation_rounds=1)) is None


@pytest.mark.parametrize(
    ("mode", "min_delta", "scores", "ends_after", "best"),
    [
        ("max", 0.0, [0.1, 0.2, 0.2, 0.3, 0.3, 0.3], 6, (0.3, 4)),
        ("max", 0.15, [0.1, 0.2, 0.26, 0.3, 0.3], 5, (0.26, 3)),  # not better by more than 0.15, and then it is
        ("max", 0.15, [0.1, 0.2, 0.25, 0.3], 3, (0.1, 1)),
        ("min", 0.0, [0.9, 0.5, 0.6, 0.6], 4, (0.5, 2)),
        ("min", 0.0, [-0.9, -0.5, -0.6], 3, (-0.9, 1)),
        ("max", 0.0, [math.nan, 0.1, math.nan, 0.1], 4, (0.1, 2)),
        ("max", 0.0, [0.1, None, None], 3, (0.1, 1)),  # rounds without an evaluation count
        ("max", 0.0, [None, None, math.nan, math.nan], None, (None, 0)),  # there is nothing to get better than
    ],
)
def test_it_ends_when_it_gets_no_better(
    mode: str,
    min_delta: float,
    scores: list[float | None],
    ends_after: int | None,
    best: tuple[float | None, int],
) -> None:
    signals = TerminationSignals(
        evaluation_metric="score",
        patience_rounds=2,
        min_delta=min_delta,
        mode=mode,  # type: ignore[arg-type]
    )
    standing, reason = Standing(), None
    for score in scores:
        standing.num_published += 1
        latest = record() if score is None else record(score=score)
        reason = reason_to_stop(signals, standing, latest, ControllerConfig(), [])
        if reason is not None:
            break
        standing = Standing.from_json(standing.to_json())  # it survives
    assert (standing.best_score, standing.best_at) == best
    assert (reason is not None) == (ends_after is not None)
    if reason is not None:
        assert standing.num_published == ends_after
        text = f"patience_rounds=2 reached; the best was score={best[0]:g}, after {best[1]} models"
        assert reason == (text, Ending.PATIENCE)


LIAR = 1e300


@pytest.mark.parametrize(
    ("config", "mode", "scores", "expected"),
    [
        (ControllerConfig(cutoff_score="median"), "max", [0.1, 0.2, LIAR], None),
        (ControllerConfig(cutoff_score="median"), "max", [0.9, LIAR, 0.2], "the median of score=0.9"),
        (ControllerConfig(cutoff_score="median"), "min", [0.9, -LIAR, 0.7], None),
        (ControllerConfig(cutoff_score="median"), "min", [0.4, -LIAR, 0.7], "the median of score=0.4"),
        (ControllerConfig(cutoff_score="median"), "max", [math.nan, 0.6], "the median of score=0.6"),
        (ControllerConfig(cutoff_score="median"), "max", [math.nan], None),
        (ControllerConfig(cutoff_score="quorum", min_learners=2), "max", [LIAR, 0.4, 0.3], None),
        (
            ControllerConfig(cutoff_score="quorum", min_learners=2),
            "max",
            [LIAR, 0.4, 0.5],
            "the score of 2 learners=0.5",
        ),
        (ControllerConfig(cutoff_score="quorum", min_learners=2), "min", [-LIAR, 0.6], None),
        (
            ControllerConfig(cutoff_score="quorum", min_learners=2),
            "min",
            [-LIAR, 0.1, 0.6],
            "the score of 2 learners=0.1",
        ),
        (ControllerConfig(cutoff_score="quorum", min_learners=2), "max", [LIAR], None),
        (ControllerConfig(cutoff_score="mean"), "max", [LIAR, 0.0], "score=5e+299"),
    ],
)
def test_one_liar_ends_it_with_the_mean_only(
    config: ControllerConfig, mode: str, scores: list[float], expected: str | None
) -> None:
    signals = TerminationSignals(
        evaluation_metric="score",
        evaluation_metric_cutoff_score=0.5,
        mode=mode,  # type: ignore[arg-type]
    )
    reason = stop(signals, 1, record(score=sum(scores) / len(scores)), config, scores)
    assert reason == (expected and (f"{expected} reached evaluation_metric_cutoff_score=0.5", SCORE))
