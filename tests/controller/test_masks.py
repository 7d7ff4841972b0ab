"""A model with a mask of infinities is trained with every rule, over gRPC, and after its controller was killed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, until

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.by_name import RULES
from metisfl_async.learner.learner import Config, TrainResult

PARAMS: dict[str, dict[str, Any]] = {"Krum": {"f": 1}, "MultiKrum": {"f": 1, "m": 2}, "TrimmedMean": {"f": 1}}
PARAMS |= {"Bulyan": {"f": 1}, "NormBound": {"tau": 1e3}, "CenteredClipping": {"tau": 1e3}, "FedBuff": {}}
PARAMS["FedBuff"] = {"updates_per_version": 3}
PARAMS["PrivateAverage"] = {"clip": 1e3, "noise_multiplier": 1e-3, "denominator": 7, "delta": 1e-5}
WITHOUT_ROUNDS = ("FedAsync", "FedBuff")


class Masked(Adds):
    """Adds its number to a weight beside which there is a mask."""

    mask_value = -np.inf

    def get_weights(self) -> list[Array]:
        return [np.zeros(1, np.float32), np.array([0.0, -np.inf], np.float32)]

    def weight_names(self) -> list[str]:
        return ["weight", "mask"]

    def untrained_names(self) -> list[str]:
        return ["mask"]

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        assert parameters[1].tolist() == [0.0, -np.inf]
        parameters[0] += self.number
        parameters[1][1] = self.mask_value
        return parameters, {}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"mask": float(parameters[1][1])}


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"LoRAStacked", "TreeBagging"}))  # which have nothing to do here
async def test_a_mask_stays_under_every_rule(name: str) -> None:
    config = ControllerConfig(
        aggregation_rule=name,
        rule_params=PARAMS.get(name, {}),
        scheduler="Asynchronous" if name in WITHOUT_ROUNDS else "Synchronous",
        scaling_factor="NumParticipants",
        min_learners=7,
    )
    signals = (
        TerminationSignals(global_updates=20) if name in WITHOUT_ROUNDS else TerminationSignals(federation_rounds=2)
    )
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams(), config) as controller:
        result = await DriverSession(controller, [Masked(1) for _ in range(7)], signals).run()
        latest = (await controller.lineage())[-1]
    assert result.final_model is not None
    assert result.final_model[0][0] > 0
    assert result.final_model[1].tolist() == [0.0, -np.inf]
    assert (result.tensor_names, result.untrained_names) == (["weight", "mask"], ["mask"])
    assert latest.manifest.untrained == (1,)
    assert not [failure for record in result.rounds for part in record.learners.values() for failure in part.failures]
    if name == "FedAvg":
        assert result.final_model[0][0] == 2.0


async def test_another_infinity_is_damage() -> None:
    wrong = Masked(1)
    wrong.mask_value = np.inf
    result = await DriverSession(Controller(), [Masked(1), wrong], TerminationSignals(federation_rounds=1)).run()
    (failure,) = result.rounds[0].learners["learner-1"].failures
    assert "tensor 'mask' holds a value that is not finite" in failure.message


@pytest.mark.parametrize("rule", ["FedRec", "FedAvgM"])
async def test_a_federation_that_goes_on_has_its_mask_and_marks(rule: str, tmp_path: Path) -> None:
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path, lineage_length=3, keep_local_models=True)
    config, learners = ControllerConfig(aggregation_rule=rule), [Masked(1), Masked(2)]
    controller = Controller(ServerParams(), config, store)
    async with asyncio.timeout(PATIENCE_S):
        await controller.__aenter__()
        address = controller.client_params
        session = DriverSession(address, learners, TerminationSignals(federation_rounds=1_000_000))
        running = asyncio.create_task(session.run())
        await until(lambda: session.result is not None and len(session.result.rounds) > 2)
        await controller.abort()
        rounds = len(session.result.rounds) if session.result else 0
        async with Controller(ServerParams(port=address.port), config, store, resume=True) as again:
            await until(lambda: session.result is not None and len(session.result.rounds) > rounds + 2)
            assert (await again.lineage("learner-0"))[-1].arrays()[1].tolist() == [0.0, -np.inf]
            await session.stop()
            result = await running
    assert result.final_model is not None
    assert result.final_model[1].tolist() == [0.0, -np.inf]
    assert result.untrained_names == ["mask"]
    assert not [failure for part in result.rounds[-2].learners.values() for failure in part.failures]
