"""Robust rules in whole federations: with rounds and without, kept updates, and what the record says."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, Adds

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationEnvironment,
    FederationResult,
    Learner,
    Model,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.by_name import RULES
from metisfl_async.errors import NoModel
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.strategies import Median, NormBound, TrimmedMean

ROBUST: dict[str, tuple[dict[str, Any], int]] = {  #: parameters, and how many learners it needs
    "Median": ({}, 3),
    "TrimmedMean": ({"f": 1}, 3),
    "Krum": ({"f": 1}, 5),
    "MultiKrum": ({"f": 1, "m": 2}, 5),
    "GeometricMedian": ({}, 3),
    "CenteredClipping": ({"tau": 2.0}, 3),
    "Bulyan": ({"f": 1}, 7),
    "NormBound": ({"tau": 2.0, "rule": "Median"}, 3),
}
WITHOUT_ROUNDS = TerminationSignals(global_updates=20)


class Lies(Adds):
    """Gives a million times what it should, and claims to have a billion examples."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        parameters[0] += 1e6
        return parameters, {}, {"num_training_examples": 10**9}


async def run(
    config: ControllerConfig,
    learners: list[Learner],
    signals: TerminationSignals | None = None,
    store: ModelStoreConfig | None = None,
) -> FederationResult:
    session = DriverSession(
        Controller(ServerParams(), config, store), learners, signals or TerminationSignals(federation_rounds=3)
    )
    async with asyncio.timeout(PATIENCE_S):
        return await session.run()


def test_those_below_are_all_there_are() -> None:
    means = {"FedAvg", "FedStride", "FedRec", "FedAsync", "FedBuff", "FedAvgM", "FedAdagrad", "FedYogi", "FedAdam"}
    means |= {"LoRAStacked", "TreeBagging", "PrivateAverage"}
    assert ROBUST.keys() == RULES.keys() - means


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("in_rounds", [True, False], ids=["in rounds", "without"])
async def test_one_liar_does_not_take_the_model_away(name: str, in_rounds: bool, tmp_path: Path) -> None:
    params, needed = ROBUST[name]
    config = ControllerConfig(
        scheduler="Synchronous" if in_rounds else "Asynchronous",
        aggregation_rule=name,
        rule_params=params,
        min_learners=needed,
    )
    learners: list[Learner] = [Lies(1), *(Adds(1) for _ in range(needed - 1))]
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    result = await run(config, learners, None if in_rounds else WITHOUT_ROUNDS, store)
    assert result.final_model is not None
    weight = float(result.final_model[0][0])
    most = 3 if in_rounds else 20
    assert 0.0 < weight <= 1.5 * most
    if in_rounds and name != "CenteredClipping":
        assert weight == pytest.approx(most, rel=1e-5)  # a geometric median is pulled a little
    assert all(record.is_published for record in result.rounds if record.participants)


async def test_the_record_says_what_was_clipped_and_who_was_selected() -> None:
    config = ControllerConfig(aggregation_rule=NormBound(2.0, TrimmedMean(1)), min_learners=3)
    result = await run(config, [Lies(1), Adds(1), Adds(1)])
    for record in result.rounds:
        notes = {name: part.rule_notes for name, part in record.learners.items()}
        liar = notes.pop("learner-0")
        assert liar == {"clipped_from": pytest.approx(1e6, rel=1e-3), "clipped_to": 2.0}
        assert list(notes.values()) == [{}, {}]


class OfTwo(Median):
    """Says only when it sees them that two are too few."""

    min_updates = 1

    def aggregate(self, version: int) -> Model:
        if len(self._updates) < 3:
            raise NoModel(f"{len(self._updates)} are too few", keeps_updates=True)
        return super().aggregate(version)


class FailsFirst(Adds):
    """Cannot train the first time."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.configs.append(config)
        if len(self.configs) == 1:
            raise ValueError("not yet")
        return super().train(parameters, config)


async def test_updates_of_an_attempt_without_a_model_are_in_the_next() -> None:
    result = await run(
        ControllerConfig(aggregation_rule=OfTwo()),
        [Adds(1), Adds(2), FailsFirst(3)],
        TerminationSignals(federation_rounds=1),
    )
    assert [(record.is_published, record.failure) for record in result.rounds] == [(False, "2 are too few"), (True, "")]
    assert result.final_model is not None
    np.testing.assert_array_equal(result.final_model[0], [2.0])
    assert result.rounds[1].participants == ["learner-0", "learner-1", "learner-2"]


async def test_however_small_a_model_it_is_not_made_on_the_event_loop() -> None:
    threads: list[str] = []

    class Watched(Median):
        def aggregate(self, version: int) -> Model:
            threads.append(threading.current_thread().name)
            return super().aggregate(version)

    await run(ControllerConfig(aggregation_rule=Watched(), min_learners=3), [Adds(1), Adds(1), Adds(1)])
    assert len(threads) == 3
    assert all(name.startswith("metisfl-aggregator") for name in threads)


def test_a_file_names_them_with_their_parameters(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text(
        """
controller_config:
  aggregation_rule: NormBound
  rule_params: {tau: 3, rule: {TrimmedMean: {f: 2}}}
  min_learners: 5
  max_weight: 10000
termination_signals: {federation_rounds: 3}
learners: [{}, {}, {}, {}, {}]
"""
    )
    rule = FederationEnvironment.from_yaml(file).controller_config.new_rule()
    assert isinstance(rule, NormBound)
    assert isinstance(rule.rule, TrimmedMean)
    assert (rule.tau, rule.rule.f) == (3, 2)
