from __future__ import annotations

import math
from typing import get_args

import pytest

from metisfl_async.core.config import ScalingFactor
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.core.scaling import MAX_WEIGHT, scaling_factor

BY_KEY: list[tuple[ScalingFactor, str]] = [
    ("NumTrainingExamples", "num_training_examples"),
    ("NumCompletedBatches", "num_completed_batches"),
]


def test_the_scaling_factors_below_are_all_there_are() -> None:
    assert {"NumParticipants", *(name for name, _ in BY_KEY)} == set(get_args(ScalingFactor))


def test_participants_all_weigh_alike() -> None:
    assert scaling_factor("NumParticipants", {"num_training_examples": 7}, {"num_training_examples": 8.0}) == 1.0


@pytest.mark.parametrize(("name", "key"), BY_KEY)
def test_a_count_is_taken_from_the_metadata_first_and_else_from_the_metrics(name: ScalingFactor, key: str) -> None:
    assert scaling_factor(name, {key: 7}, {key: 8.0}) == 7.0
    assert scaling_factor(name, {"another": 7}, {key: 8.0}) == 8.0
    assert type(scaling_factor(name, {key: 7}, {})) is float


@pytest.mark.parametrize("value", [5e-324, 0.5, 1, MAX_WEIGHT, 2**53])
def test_any_number_above_0_and_up_to_the_limit_is_a_weight(value: float) -> None:
    assert scaling_factor("NumTrainingExamples", {"num_training_examples": value}, {}) == value


@pytest.mark.parametrize(
    "value", [0, 0.0, -1, math.nan, math.inf, -math.inf, 2**53 + 1, MAX_WEIGHT * 1.01, 10**400, True, "7", [7], {}]
)
@pytest.mark.parametrize(("name", "key"), BY_KEY)
def test_what_is_no_weight_is_refused_by_name(name: ScalingFactor, key: str, value: Json) -> None:
    with pytest.raises(ConfigError) as error:
        scaling_factor(name, {key: value}, {})
    assert error.value.field == key
    assert error.value.value is value
    assert error.value.allowed == f"a number > 0 and <= 2**53, which scaling_factor {name!r} needs"


def test_a_count_that_is_missing_is_asked_for_with_every_place_to_say_it() -> None:
    with pytest.raises(ConfigError) as error:
        scaling_factor("NumTrainingExamples", {}, {"loss": 1.0})
    assert str(error.value) == (
        "num_training_examples is None; allowed: a number, which scaling_factor 'NumTrainingExamples' needs; say it in "
        "the metadata or the metrics that train() returns, as 'num_training_examples', or "
        "Learner(num_training_examples=...)"
    )
    with pytest.raises(ConfigError) as error:
        scaling_factor("NumCompletedBatches", {"num_completed_batches": None}, {})
    assert str(error.value) == (
        "num_completed_batches is None; allowed: a number, which scaling_factor 'NumCompletedBatches' needs; say it in "
        "the metadata or the metrics that train() returns, as 'num_completed_batches'"
    )
