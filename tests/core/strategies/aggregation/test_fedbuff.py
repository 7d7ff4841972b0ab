from __future__ import annotations

import numpy as np
import pytest
from rules import A, B, C, fold, of, started

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff


def test_updates_are_steps_from_the_models_that_they_started_from() -> None:
    rule = started(FedBuff(2, exponent=0.5), of(10.0))
    fold(rule, of(14.0), 1.0, A)
    fold(rule, of(8.0), 1.0, B)
    assert rule.aggregate(1).arrays()[0] == 10.0 + (4.0 - 2.0) / 2
    fold(rule, of(13.0), 1.0, A)  # from 11
    fold(rule, of(18.0), 1.0, C, staleness=1)  # from 10
    expected = 11.0 + (2.0 + 8.0 / np.sqrt(2.0)) / 2
    np.testing.assert_allclose(rule.aggregate(2).arrays()[0], expected, rtol=1e-7)


def test_the_scaling_factors_weigh_and_the_servers_rate_scales() -> None:
    rule = started(FedBuff(2, learning_rate=0.5, exponent=0.0), of(0.0, 1.0))
    fold(rule, of(4.0, 1.0), 1.0, A)
    fold(rule, of(8.0, 5.0), 3.0, B)
    np.testing.assert_array_equal(rule.aggregate(1).arrays()[0], [0.5 * 7.0, 1.0 + 0.5 * 3.0])


def test_an_update_of_a_model_that_is_gone_is_refused() -> None:
    rule = FedBuff(1, exponent=0.0)
    rule.restore([of(1.0, version=2), of(5.0, version=4)], {})
    with pytest.raises(ConfigError, match="model_version is 3; allowed: a version that is kept: 2, 4"):
        fold(rule, of(99.0), 1.0, staleness=1)
    fold(rule, of(4.0), 1.0, staleness=2)
    assert rule.aggregate(5).arrays()[0] == 5.0 + 4.0 - 1.0


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_an_update_that_is_too_stale_is_refused_and_changes_nothing(max_staleness: int) -> None:
    rule = started(FedBuff(1, max_staleness=max_staleness, exponent=0.0), of(0.0))
    for version in range(1, 6):
        with pytest.raises(ConfigError, match=f"staleness is {max_staleness + 1}; allowed: at most max_staleness="):
            fold(rule, of(99.0), 1.0, staleness=max_staleness + 1)
        fold(rule, of(float(version)), 1.0)
        assert rule.aggregate(version).arrays()[0] == version
    fold(rule, of(7.0), 1.0, staleness=max_staleness)  # from the oldest that is kept
    assert rule.aggregate(6).arrays()[0] == 5.0 + 7.0 - (5.0 - max_staleness)


def test_a_discard_forgets_the_updates() -> None:
    rule = started(FedBuff(2, exponent=0.0), of(1.0))
    fold(rule, of(50.0), 1.0)
    rule.discard()
    fold(rule, of(2.0), 1.0)
    assert rule.aggregate(1).arrays()[0] == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates_per_version": 0}, "updates_per_version is 0; allowed: an integer >= 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; allowed: a finite number > 0"),
        ({"exponent": -0.5}, "exponent is -0.5; allowed: a finite number >= 0"),
        ({"max_staleness": -1}, "max_staleness is -1; allowed: an integer >= 0"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FedBuff(**options)  # type: ignore[arg-type]
