from __future__ import annotations

import math

import pytest

from metisfl_async.core.config import TerminationSignals
from metisfl_async.core.records import RoundRecord
from metisfl_async.core.termination import cutoff_s, reason_to_stop


def records(*published: bool, **metrics: float) -> list[RoundRecord]:
    """Rounds of which some were published; the last one was evaluated to these metrics."""
    made = [RoundRecord(1, 0, is_published=is_published) for is_published in published]
    made[-1].evaluation_metrics = metrics
    return made


def test_rounds_that_were_not_published_do_not_count() -> None:
    signals = TerminationSignals(federation_rounds=2)
    assert reason_to_stop(signals, []) is None
    assert reason_to_stop(signals, records(True, False, False)) is None
    assert reason_to_stop(signals, records(True, False, True)) == "federation_rounds=2 reached"


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
    assert (reason_to_stop(signals, records(True, score=score)) is not None) is is_reached


def test_only_the_last_rounds_evaluation_of_the_named_metric_is_looked_at() -> None:
    signals = TerminationSignals(evaluation_metric="auc", evaluation_metric_cutoff_score=0.5)
    assert reason_to_stop(signals, []) is None
    assert reason_to_stop(signals, records(True, accuracy=0.9)) is None
    assert reason_to_stop(signals, [*records(True, auc=0.9), *records(True, auc=0.1)]) is None
    assert reason_to_stop(signals, records(True, auc=0.9)) == "auc=0.9 reached evaluation_metric_cutoff_score=0.5"


def test_the_first_signal_that_is_reached_ends_it() -> None:
    signals = TerminationSignals(
        federation_rounds=3, evaluation_metric="auc", evaluation_metric_cutoff_score=0.5, execution_cutoff_time_mins=1.0
    )
    assert reason_to_stop(signals, records(True, auc=0.1)) is None
    assert reason_to_stop(signals, records(True, auc=0.5)) == "auc=0.5 reached evaluation_metric_cutoff_score=0.5"
    assert reason_to_stop(signals, records(True, True, True, auc=0.1)) == "federation_rounds=3 reached"


def test_the_cutoff_time_is_given_in_minutes_and_kept_in_seconds() -> None:
    assert cutoff_s(TerminationSignals(execution_cutoff_time_mins=1.5)) == 90.0
    assert cutoff_s(TerminationSignals(federation_rounds=1)) is None
