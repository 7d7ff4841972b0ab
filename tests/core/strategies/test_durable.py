"""Strategies of users that a controller can take up again, and those that it cannot."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metisfl_async.core.config import ControllerConfig, ModelStoreConfig
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.durable import check_durable, check_kept
from metisfl_async.core.strategies.selection import Selector


class First(Selector):
    """Keeps nothing from call to call."""

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        return candidates[:1]


class InTurn(First):
    """Keeps whose turn it is."""

    def __init__(self) -> None:
        self.turn = 0


class SaysWhoseTurn(InTurn):
    def state(self) -> Json:
        return self.turn

    def restore(self, state: Json) -> None:
        assert isinstance(state, int)
        self.turn = state


class MyMean(FedAvg):
    """Does not say what it keeps."""


@pytest.fixture
def disk(tmp_path: Path) -> ModelStoreConfig:
    return ModelStoreConfig(model_store="Disk", directory=tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aggregation_rule": "FedAdam"},
        {"aggregation_rule": NormBound(1.0)},
        {"selector": First()},
        {"selector": SaysWhoseTurn()},
    ],
)
def test_what_is_ours_keeps_nothing_or_says_what_can_be_taken_up_again(
    options: dict[str, Any], disk: ModelStoreConfig
) -> None:
    check_durable(ControllerConfig(**options), disk)


@pytest.mark.parametrize(
    ("options", "field", "name"),
    [
        ({"aggregation_rule": MyMean()}, "aggregation_rule", "MyMean"),
        ({"aggregation_rule": NormBound(1.0, MyMean())}, "aggregation_rule", "MyMean"),
        ({"selector": InTurn()}, "selector", "InTurn"),
    ],
)
def test_what_does_not_say_what_it_keeps_is_refused(
    options: dict[str, Any], field: str, name: str, disk: ModelStoreConfig
) -> None:
    with pytest.raises(ConfigError, match=r"a class with methods state\(\) and restore\(\) of its own") as error:
        check_durable(ControllerConfig(**options), disk)
    assert (error.value.field, error.value.value) == (field, name)


class Half(FedAvg):
    """Says what it keeps, and never takes it up again."""

    def state(self) -> dict[str, Array]:
        return {"moment": np.ones(1)}


def test_a_state_that_nothing_takes_up_is_refused_where_there_is_one() -> None:
    with pytest.raises(RuntimeError, match=r"the aggregation rule Half has a state\(\), but no restore\(\) of its own"):
        check_kept("aggregation rule", Half(), Half().state())
    check_kept("aggregation rule", Half(), {})
    check_kept("aggregation rule", FedAvg(), {"moment": np.ones(1)})
    check_kept("selector", SaysWhoseTurn(), 3)


def test_only_without_rounds_may_models_be_left_unsaved(tmp_path: Path) -> None:
    seldom = ModelStoreConfig(model_store="Disk", directory=tmp_path, durable_every=2)
    check_durable(ControllerConfig(scheduler="Asynchronous"), seldom)
    with pytest.raises(ConfigError, match="durable_every is 2; allowed: 1 with a scheduler that has rounds"):
        check_durable(ControllerConfig(), seldom)
