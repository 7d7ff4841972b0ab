from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.scaling import MAX_WEIGHT, MIN_WEIGHT, SCALING_FACTORS, weight_of

A = LearnerId("a")
BY_KEY: list[tuple[str, str]] = [
    ("NumTrainingExamples", "num_training_examples"),
    ("NumCompletedBatches", "num_completed_batches"),
]


def test_the_scaling_factors_below_are_all_there_are() -> None:
    assert {"NumParticipants", *(name for name, _ in BY_KEY)} == set(SCALING_FACTORS)


def test_participants_all_weigh_alike() -> None:
    assert weight_of("NumParticipants", A, {"num_training_examples": 7}, {"num_training_examples": 8.0}) == 1.0


@pytest.mark.parametrize(("name", "key"), BY_KEY)
def test_a_count_is_taken_from_the_metadata_first_and_else_from_the_metrics(name: str, key: str) -> None:
    assert weight_of(name, A, {key: 7}, {key: 8.0}) == 7.0
    assert weight_of(name, A, {"another": 7}, {key: 8.0}) == 8.0
    assert type(weight_of(name, A, {key: 7}, {})) is float


@pytest.mark.parametrize("value", [MIN_WEIGHT, 0.5, 1, MAX_WEIGHT, 2**53])
def test_any_number_above_0_and_up_to_the_limit_is_a_weight(value: float) -> None:
    assert weight_of("NumTrainingExamples", A, {"num_training_examples": value}, {}) == value


@pytest.mark.parametrize(
    "value",
    [
        0,
        0.0,
        5e-324,
        MIN_WEIGHT / 2,
        -1,
        math.nan,
        math.inf,
        -math.inf,
        2**53 + 1,
        MAX_WEIGHT * 1.01,
        10**400,
        True,
        "7",
        [7],
        {},
    ],
)
@pytest.mark.parametrize(("name", "key"), BY_KEY)
def test_what_is_no_weight_is_refused_by_name(name: str, key: str, value: Json) -> None:
    with pytest.raises(ConfigError) as error:
        weight_of(name, A, {key: value}, {})
    assert error.value.field == key
    assert error.value.value is value
    assert error.value.allowed == f"a number >= 2**-53 and <= max_weight={2**53}, which scaling_factor {name!r} needs"


def test_a_count_that_is_missing_is_asked_for_with_every_place_to_say_it() -> None:
    with pytest.raises(ConfigError) as error:
        weight_of("NumTrainingExamples", A, {}, {"loss": 1.0})
    assert str(error.value) == (
        "num_training_examples is None; allowed: a number, which scaling_factor 'NumTrainingExamples' needs; say it in "
        "the metadata or the metrics that train() returns, as 'num_training_examples', or "
        "Learner(num_training_examples=...)"
    )
    with pytest.raises(ConfigError) as error:
        weight_of("NumCompletedBatches", A, {"num_completed_batches": None}, {})
    assert str(error.value) == (
        "num_completed_batches is None; allowed: a number, which scaling_factor 'NumCompletedBatches' needs; say it in "
        "the metadata or the metrics that train() returns, as 'num_completed_batches'"
    )


def test_a_users_own_factor_sees_learner_metadata_and_metrics() -> None:
    def by_loss(learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
        assert (learner, metadata) == (A, {"site": "north"})
        return 1.0 / metrics["loss"]

    assert weight_of(by_loss, A, {"site": "north"}, {"loss": 4.0}) == 0.25


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, True, None, "1"])
def test_what_a_users_own_factor_gives_is_checked(value: float) -> None:
    def odd(learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
        return value

    with pytest.raises(
        ConfigError,
        match=r"weight is .*>= 2\*\*-53 and <= max_weight=9007199254740992, what scaling_factor 'odd' must give",
    ):
        weight_of(odd, A, {}, {})


def test_a_users_own_factor_that_raises_refuses_the_update() -> None:
    class Odd:
        def __call__(self, learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
            if learner == A:
                raise ConfigError("loss", None, "a number")
            return metrics["loss"]

    with pytest.raises(ConfigError, match="scaling_factor is 'Odd'; allowed: one that does not raise KeyError: 'loss'"):
        weight_of(Odd(), LearnerId("b"), {}, {})
    with pytest.raises(ConfigError, match="loss is None; allowed: a number"):
        weight_of(Odd(), A, {}, {})


def test_a_claim_of_more_than_the_limit_is_refused_and_not_made_smaller() -> None:
    assert weight_of("NumTrainingExamples", A, {"num_training_examples": 5_000}, {}, 5e3) == 5_000
    with pytest.raises(ConfigError, match=r"num_training_examples is 5001; allowed: .* <= max_weight=5000, which"):
        weight_of("NumTrainingExamples", A, {"num_training_examples": 5_001}, {}, 5e3)
    with pytest.raises(ConfigError, match=r"weight is 1.0; allowed: .* <= max_weight=0.5, which"):
        weight_of("NumParticipants", A, {}, {}, 0.5)
    with pytest.raises(ConfigError, match=r"weight is 7.0; allowed: .* <= max_weight=6, what"):
        weight_of(lambda *_: 7.0, A, {}, {}, 6)
