from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rules import A, B, C, fold, of, started

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.private_average import PrivateAverage, normal
from metisfl_async.core.strategies.aggregation.rule import made
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdam, FedAvgM
from metisfl_async.core.strategies.privacy import epsilon_of
from metisfl_async.core.strategies.selection import ScheduledCardinality


def private(clip: float = 1.0, noise: float = 1.0, denominator: int = 2, **options: Any) -> PrivateAverage:
    return PrivateAverage(clip, noise, denominator, 1e-5, **options)


def test_it_is_the_clipped_mean_with_noise_as_numpy_makes_it() -> None:
    size, rng = BLOCK + 5, np.random.default_rng(3)
    first, changes = rng.normal(size=size), rng.normal(size=(3, size)) * [[1.0], [0.001], [5.0]]
    rule = started(PrivateAverage(2.0, 0.5, 4, 1e-5, seed=7), Model.from_arrays([first]))
    for learner, change, weight in zip((A, B, C), changes, (1.0, 9.0, 1e6), strict=True):  # the weights have no say
        fold(rule, Model.from_arrays([first + change]), weight, learner)
    norms = np.linalg.norm(changes, axis=1)
    total = (changes * np.minimum(1.0, 2.0 / norms)[:, None]).sum(0)
    random_bytes = np.random.default_rng([7, 0]).bytes
    noise = np.concatenate([normal(count, random_bytes) for count in (BLOCK, 5)])
    np.testing.assert_allclose(made(rule, 1).arrays()[0], first + (total + 0.5 * 2.0 * noise) / 4, rtol=1e-9)
    clipped = {
        learner: {"clipped_from": pytest.approx(norm), "clipped_to": 2.0}
        for learner, norm in zip("abc", norms, strict=True)
    }
    assert rule.notes() == {name: notes for name, notes in clipped.items() if name != "b"}


def test_the_noise_has_the_standard_deviation_that_it_says() -> None:
    size = 400_000
    rule = started(PrivateAverage(3.0, 2.0, 10, 1e-5, seed=1), Model.from_arrays([np.zeros(size)]))
    fold(rule, Model.from_arrays([np.zeros(size)]), 1.0)
    noise = made(rule, 1).arrays()[0] / (2.0 * 3.0 / 10)
    assert abs(noise.mean()) < 5 / math.sqrt(size)
    assert abs(noise.std() - 1.0) < 5 / math.sqrt(2 * size)
    for limit in (0.5, 1.0, 2.0, 3.0):  # it is normal
        share = math.erfc(limit / math.sqrt(2))
        assert abs((np.abs(noise) > limit).mean() - share) < 5 * math.sqrt(share / size)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 5 / math.sqrt(size)
    half = BLOCK // 2  # the two numbers of a pair
    assert abs(np.corrcoef(noise[:half], noise[half : 2 * half])[0, 1]) < 5 / math.sqrt(half)


def test_numbers_are_normal_whatever_the_bytes() -> None:
    assert np.isfinite(normal(4, bytes)).all()
    assert np.isfinite(normal(3, lambda count: b"\xff" * count)).all()
    assert normal(3, bytes).shape == (3,)


def test_one_learner_moves_the_sum_by_no_more_than_clip() -> None:
    models = []
    for change in (0.0, 1e3, -1e200):
        rule = started(PrivateAverage(1.0, 1.0, 5, 1e-5, seed=2), Model.from_arrays([np.zeros(8)]))
        fold(rule, Model.from_arrays([np.full(8, 0.1)]), 1.0, A)
        fold(rule, Model.from_arrays([np.full(8, change)]), 1.0, B)
        models.append(made(rule, 1).arrays()[0])
    assert np.linalg.norm(models[1] - models[0]) == pytest.approx(1.0 / 5)
    assert np.linalg.norm(models[2] - models[0]) <= 1.0 / 5 + 1e-12


def test_a_learner_counts_once_in_a_model() -> None:
    rule = started(private(), of(0.0))
    fold(rule, of(1.0), 1.0)
    with pytest.raises(ConfigError, match="one of each learner"):
        fold(rule, of(1.0), 1.0)
    rule.discard()
    fold(rule, of(1.0), 1.0)
    made(rule, 1)
    fold(rule, of(1.0), 1.0)


def test_what_is_not_trained_stays_as_it_is() -> None:
    def model(value: float) -> Model:
        arrays = [np.full(3, value, np.float32), np.array([int(value)]), np.full(2, value), np.array([value > 1])]
        return Model.from_arrays(arrays, ["weights", "count", "running_mean", "flag"], untrained=["running_mean"])

    rule = started(private(seed=0), model(1.0))
    fold(rule, model(9.0), 1.0)
    weights, *others = made(rule, 1).arrays()
    assert (weights != 1.0).all()
    for left, first in zip(others, model(1.0).arrays()[1:], strict=True):
        np.testing.assert_array_equal(left, first)


def test_noise_is_never_the_same_twice() -> None:
    def noise(rule: PrivateAverage) -> list[float]:
        rule.start(of(0.0, 0.0, 0.0))
        drawn = []
        for version in (1, 2):
            fold(rule, of(0.0, 0.0, 0.0), 1.0)
            drawn += made(rule, version).arrays()[0].tolist()
        return drawn

    once, again = noise(private()), noise(private())
    assert len({*once, *again}) == 12  # the second model has the noise of both
    assert noise(private(seed=1)) == noise(private(seed=1))
    seeded = noise(private(seed=1))
    assert seeded[3] != 2 * seeded[0]


def test_every_model_that_was_made_counts_whatever_comes_of_it() -> None:
    rule = started(private(), of(0.0))
    assert rule.privacy()["epsilon"] == 0.0
    first = of(0.0)
    for version in (1, 2, 3):
        fold(rule, of(0.5), 1.0)
        made(rule, version)
        rule.take_back(first)  # it could not be published
        expected = {"epsilon": epsilon_of(1.0, version, 1e-5), "delta": 1e-5, "releases": version}
        assert rule.privacy() == expected | {"noise_multiplier": 1.0, "clip": 1.0}
    rule.start(first)
    assert rule.privacy()["releases"] == 0


def test_the_count_is_taken_up_again() -> None:
    rule, other = started(private(), of(0.0)), private()
    models = [of(0.0)]
    for version in (1, 2):
        fold(rule, of(0.5), 1.0)
        models.append(made(rule, version))
        rule.take_back(models[-1])
    fold(rule, of(0.5), 1.0)
    made(rule, 3)
    rule.take_back(models[-1])
    other.restore(models, rule.state())
    assert other.privacy() == rule.privacy()
    assert other.privacy()["releases"] == 3
    other.restore(models, {})  # its state is gone: each version was a model
    assert other.privacy()["releases"] == 2


def test_a_server_optimizer_around_it_keeps_the_count() -> None:
    rule = FedAvgM(private(seed=4), momentum=0.0)
    plain = private(seed=4)
    started(rule, of(0.0, 1.0)), started(plain, of(0.0, 1.0))
    for each in (rule, plain):
        fold(each, of(0.25, 1.0), 1.0)
    model = made(rule, 1)
    np.testing.assert_allclose(model.arrays()[0], made(plain, 1).arrays()[0], rtol=1e-6)
    rule.take_back(model)
    assert (rule.privacy(), rule.is_private) == (plain.privacy(), True)
    again = FedAvgM(private(seed=4), momentum=0.0)
    again.restore([model], rule.state())
    assert again.privacy() == plain.privacy()
    assert NormBound(1.0, private()).is_private


def test_a_rule_that_promises_nothing_spends_nothing() -> None:
    rule = started(FedAvg(), of(0.0))
    fold(rule, of(0.5), 1.0)
    made(rule, 1)
    assert (rule.is_private, rule.privacy()) == (False, {})
    assert FedAvgM(rule).privacy() == {}


def test_no_model_is_made_beyond_the_budget() -> None:
    budget = (epsilon_of(1.0, 2, 1e-5) + epsilon_of(1.0, 3, 1e-5)) / 2
    rule = started(private(max_epsilon=budget), of(0.0))
    for version in (1, 2):
        fold(rule, of(0.5), 1.0)
        made(rule, version)
    spent = rule.privacy()
    assert spent["epsilon"] <= spent["max_epsilon"] == budget < spent["next_epsilon"]
    fold(rule, of(0.5), 1.0)
    with pytest.raises(NoModel, match="max_epsilon="):
        made(rule, 3)
    with pytest.raises(ConfigError, match=r"at least 4\.37718, which the first model spends"):
        private(max_epsilon=4.377)
    assert Ending("max_epsilon") is Ending.MAX_EPSILON


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip", 0.0),
        ("clip", math.inf),
        ("noise_multiplier", 0.0),
        ("denominator", 0),
        ("delta", 0.0),
        ("delta", 1.0),
        ("max_epsilon", -1.0),
        ("seed", -1),
    ],
)
def test_what_promises_nothing_is_refused(field: str, value: float) -> None:
    options: dict[str, Any] = {"clip": 1.0, "noise_multiplier": 1.0, "denominator": 2, "delta": 1e-5, field: value}
    with pytest.raises(ConfigError, match=field):
        PrivateAverage(**options)


RULE = {"clip": 1.0, "noise_multiplier": 1.0, "denominator": 2, "delta": 1e-5}


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("scaling_factor", {"scaling_factor": "NumTrainingExamples"}),
        ("scaling_factor", {"scaling_factor": lambda learner, metadata, metrics: 1.0}),
        ("scheduler", {"scheduler": "Asynchronous"}),
        ("scheduler", {"scheduler": "SemiSynchronous", "semi_sync_lambda": 1.0}),
        ("max_relayed_learners", {"max_relayed_learners": 2}),
        ("selector", {"selector": "ScheduledCardinality"}),
        ("selector", {"selector": ScheduledCardinality(1.0, 1)}),
    ],
)
@pytest.mark.parametrize("rule", [PrivateAverage(**RULE), FedAdam(PrivateAverage(**RULE))])  # type: ignore[arg-type]
def test_what_would_break_the_promise_is_refused(rule: Any, field: str, options: dict[str, Any]) -> None:
    ControllerConfig(aggregation_rule=rule, scaling_factor="NumParticipants")
    with pytest.raises(ConfigError, match=f"^{field} is") as caught:
        ControllerConfig(**{"aggregation_rule": rule, "scaling_factor": "NumParticipants"} | options)
    assert caught.value.field == field


def test_it_is_made_by_name_within_another_rule() -> None:
    params = {"rule": {"PrivateAverage": RULE}}
    config = ControllerConfig(aggregation_rule="FedAdam", rule_params=params, scaling_factor="NumParticipants")
    assert config.new_rule().is_private
