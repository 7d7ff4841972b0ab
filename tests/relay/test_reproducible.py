"""With `reproducible=True`, a tree of relays has the bits of the flat federation whatever weights and dtypes are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from federations import Adds, nothing_left_behind
from relay.regions import region, top

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, QuorumLost, TerminationSignals
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.strategies import FedAvg, FedAvgM

EXACT = FedAvg(reproducible=True)


def thirds(learner: str, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
    """Weights that no float64 holds exactly."""
    return (1 + metrics["number"]) / 3


class Wide(Learner):
    """Has float64 weights of all sizes, and changes them a little."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def get_weights(self) -> list[Array]:
        random = np.random.default_rng(9)
        return [random.standard_normal(2_000) * 10.0 ** random.integers(-9, 9, 2_000), np.zeros(3, np.float32)]

    def set_weights(self, parameters: list[Array]) -> None: ...

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        random = np.random.default_rng([self.number, int(str(config["round_number"]))])
        steps = [(random.standard_normal(each.shape) * 0.1).astype(each.dtype) for each in parameters]
        trained = [each + each * step + step for each, step in zip(parameters, steps, strict=True)]
        return trained, {"number": self.number}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {}


def named(*numbers: int) -> dict[str, Learner]:
    return {f"site-{number}": Wide(number) for number in numbers}


async def test_any_tree_has_the_bits_of_the_flat_federation() -> None:
    options: dict[str, Any] = {"scaling_factor": thirds, "evaluate_every": 0}
    signals = TerminationSignals(federation_rounds=3)
    config = ControllerConfig(min_learners=6, aggregation_rule=FedAvgM(EXACT), **options)
    expected = await DriverSession(Controller(None, config), [Wide(number) for number in range(6)], signals).run()
    assert expected.final_model is not None

    def below(count: int) -> ControllerConfig:
        return ControllerConfig(min_learners=count, aggregation_rule=EXACT, max_relayed_learners=9, **options)

    async with (
        nothing_left_behind(),
        top(2, aggregation_rule=FedAvgM(EXACT), **options) as controller,
        region(controller.client_params, "east", named(5, 0), below(2)),
        region(controller.client_params, "west", named(3), below(2)) as west,
        region(west.client_params, "coast", named(1, 4, 2), below(3)),
    ):
        result = await DriverSession(controller, 2, signals).run()
    assert result.final_model is not None
    assert [each.dtype.name for each in result.final_model] == ["float64", "float32"]
    assert [each.tobytes() for each in result.final_model] == [each.tobytes() for each in expected.final_model]


@pytest.mark.parametrize(
    ("above", "below", "message"),
    [
        (EXACT, FedAvg(), "the sum has codec 'raw'; allowed: 'exact', of a relay whose rule has reproducible=True"),
        (FedAvg(), EXACT, "the sum has codec 'exact'; allowed: 'raw', of a relay whose rule has reproducible=False"),
    ],
)
async def test_a_relay_adds_up_as_its_parent_does(above: FedAvg, below: FedAvg, message: str) -> None:
    config = ControllerConfig(min_learners=1, aggregation_rule=below)
    async with (
        nothing_left_behind(),
        top(1, aggregation_rule=above, max_failed_rounds=1) as controller,
        region(controller.client_params, "north", {"site-0": Adds(1)}, config),
    ):
        with pytest.raises(QuorumLost, match=message):
            await DriverSession(controller, 1, TerminationSignals(federation_rounds=1)).run()
