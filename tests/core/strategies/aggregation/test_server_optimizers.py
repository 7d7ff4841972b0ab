"""The server optimizers against the formulas of their papers, written once more in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from rules import A, Kept, fold, of, started

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi

Floats = NDArray[np.float64]
SIZE = BLOCK + 5


def momentum(x: Floats, means: Sequence[Floats]) -> Iterator[Floats]:
    v = np.zeros_like(x)
    for mean in means:
        v = 0.7 * v + (mean - x)
        x = x + 0.5 * v
        yield x


def adaptive(kind: str, x: Floats, means: Sequence[Floats], beta_1: float) -> Iterator[Floats]:
    m, v = np.zeros_like(x), np.full_like(x, 0.01**2)
    for mean in means:
        d = mean - x
        m = beta_1 * m + (1 - beta_1) * d
        if kind == "adagrad":
            v = v + d**2
        elif kind == "yogi":
            v = v - 0.1 * d**2 * np.sign(v - d**2)
        else:
            v = 0.9 * v + 0.1 * d**2
        x = x + 0.3 * m / (np.sqrt(v) + 0.01)
        yield x


CASES: dict[str, tuple[Callable[[], AggregationRule], Callable[[Floats, Sequence[Floats]], Iterator[Floats]]]] = {
    "FedAvgM": (lambda: FedAvgM(learning_rate=0.5, momentum=0.7), momentum),
    "FedAdagrad": (
        lambda: FedAdagrad(learning_rate=0.3, beta_1=0.2, tau=0.01),
        lambda x, means: adaptive("adagrad", x, means, 0.2),
    ),
    "FedYogi": (
        lambda: FedYogi(learning_rate=0.3, beta_1=0.8, beta_2=0.9, tau=0.01),
        lambda x, means: adaptive("yogi", x, means, 0.8),
    ),
    "FedAdam": (
        lambda: FedAdam(learning_rate=0.3, beta_1=0.8, beta_2=0.9, tau=0.01),
        lambda x, means: adaptive("adam", x, means, 0.8),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_five_rounds_are_what_the_formula_says(name: str) -> None:
    make, formula = CASES[name]
    random = np.random.default_rng(3)
    first: Floats = random.standard_normal(SIZE)
    targets: list[Floats] = [random.standard_normal(SIZE) for _ in range(5)]
    rule: AggregationRule = started(make(), Model.from_arrays([first]))
    expected = list(formula(first, targets))
    for version, target in enumerate(targets, start=1):
        fold(rule, Model.from_arrays([target - 1.0]), 1.0)
        fold(rule, Model.from_arrays([target + 1.0]), 1.0)  # the mean is the target
        model = rule.aggregate(version)
        assert model.version == version
        np.testing.assert_allclose(model.arrays()[0], expected[version - 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [FedAvgM, FedAdagrad, FedYogi, FedAdam])
def test_integers_and_booleans_take_the_mean_and_padding_stays_zero(kind: type[FedAdam]) -> None:
    def model(number: int, flag: bool) -> Model:
        arrays: list[Array] = [
            np.array([1.0], np.float32),
            np.array(number, np.int64),
            np.array([flag]),
            np.array([2.0, 3.0]),
        ]
        return Model.from_arrays(arrays)

    rule = started(kind(learning_rate=0.1), model(3, False))
    fold(rule, model(8, True), 1.0)
    latest = rule.aggregate(1)
    assert latest.arrays()[1] == 8
    assert latest.arrays()[2].all()
    np.testing.assert_array_equal(latest.arrays()[3], [2.0, 3.0])  # nothing has changed there
    assert not latest.buffer[latest.manifest.padding].any()


def test_they_wrap_any_rule_that_makes_a_mean() -> None:
    plain = started(FedAvgM(FedStride(2), learning_rate=1.0, momentum=0.0), of(1.0))
    assert plain.stride_length == 2
    fold(plain, of(3.0), 1.0)
    fold(plain, of(6.0), 2.0)
    assert plain.aggregate(1).arrays()[0] == 5.0
    fold(plain, of(100.0), 1.0)
    plain.discard()
    fold(plain, of(7.0), 1.0)
    assert plain.aggregate(2).arrays()[0] == 7.0


class Remembers(FedAvg):
    """A mean that wants to know the updates before."""

    needs_previous = True

    def start(self, model: Model) -> None:
        super().start(model)
        self.seen: list[Update] = []

    def remove(self, update: Update) -> None:
        self.seen.append(update)


def test_what_the_wrapped_rule_needs_the_wrapper_needs() -> None:
    inner = Remembers()
    kept = Kept(FedAvgM(inner, momentum=0.0), of(0.0))
    assert kept.rule.needs_previous
    kept.commit(A, of(2.0), 1.0)
    kept.leave(A)
    assert [update.weight for update in inner.seen] == [1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedAdam(FedRec()), "rule is <.*FedRec.*>; allowed: a rule that makes a mean"),
        (lambda: FedAdam("FedAvg"), "rule is 'FedAvg'"),  # type: ignore[arg-type]
        (lambda: FedAvgM(learning_rate=-1.0), "learning_rate is -1.0; allowed: a finite number > 0"),
        (lambda: FedAvgM(momentum=1.0), "momentum is 1.0; allowed: a finite number >= 0 and < 1"),
        (lambda: FedYogi(beta_1=-0.1), "beta_1 is -0.1; allowed: a finite number >= 0 and < 1"),
        (lambda: FedAdam(beta_2=1), "beta_2 is 1; allowed: a finite number >= 0 and < 1"),
        (lambda: FedAdagrad(tau=0.0), "tau is 0.0; allowed: a finite number > 0"),
    ],
)
def test_wrong_parameters_are_named(make: type[AggregationRule], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
