from __future__ import annotations

import numpy as np
import pytest
from rules import fold, of, started

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync, Staleness


@pytest.mark.parametrize(
    ("staleness", "t", "expected"),
    [
        *(("constant", t, 1.0) for t in (0, 1, 50)),
        *(("polynomial", 0, 1.0), ("polynomial", 3, 0.5), ("polynomial", 8, 1 / 3)),
        *(("hinge", 0, 1.0), ("hinge", 4, 1.0), ("hinge", 5, 1 / 11), ("hinge", 14, 1 / 101)),
    ],
)
def test_the_discounts_are_those_of_the_paper(staleness: Staleness, t: int, expected: float) -> None:
    assert FedAsync(staleness=staleness).discount(t) == pytest.approx(expected)


def test_an_update_is_mixed_in_by_its_share() -> None:
    rule = started(FedAsync(0.5, "polynomial", exponent=1.0), of(0.0))
    fold(rule, of(8.0), 123.0)  # share 1/2; the weight plays no part
    assert rule.aggregate(1).arrays()[0] == 4.0
    fold(rule, of(16.0), 1.0, staleness=1)  # share 1/4
    model = rule.aggregate(2)
    assert model.arrays()[0] == 0.75 * 4.0 + 0.25 * 16.0
    assert model.version == 2


def test_small_steps_add_up() -> None:
    rule = started(FedAsync(1e-9, "constant"), of(1.0))
    for version in range(100):
        fold(rule, of(1e6), 1.0)
        rule.discard()  # nothing is taken back
        model = rule.aggregate(version)
    expected = 1e6 + (1.0 - 1e6) * (1 - 1e-9) ** 100
    np.testing.assert_allclose(model.arrays()[0], expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": 0.0}, "mixing is 0.0; allowed: a finite number > 0 and <= 1"),
        ({"mixing": 1.5}, "mixing is 1.5"),
        ({"staleness": "linear"}, "staleness is 'linear'; allowed: constant, polynomial, hinge"),
        ({"exponent": -1.0}, "exponent is -1.0; allowed: a finite number >= 0"),
        ({"slope": float("nan")}, "slope is nan; allowed: a finite number >= 0"),
        ({"hinge_start": None}, "hinge_start is None; allowed: a finite number >= 0"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FedAsync(**options)  # type: ignore[arg-type]


def test_a_sum_of_nothing_stays_nothing_by_whatever_it_is_multiplied() -> None:
    nothing = Sum(of(1.0, 2.0).manifest)
    nothing.scale(3.0)
    nothing.add(of(1.0, 2.0), 2.0)
    assert nothing.divided_by(1.0, 1).arrays()[0].tolist() == [2.0, 4.0]
