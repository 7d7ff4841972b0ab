from __future__ import annotations

import inspect
import pickle
from dataclasses import replace
from typing import Any

import pytest

from metisfl_async import ClientParams, Controller, ControllerConfig, ModelStoreConfig, ServerParams, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import nearest


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (ControllerConfig, {"schedular": "Synchronous"}, "scheduler"),
        (ControllerConfig, {"AggregationRule": "FedAvg"}, "aggregation_rule"),
        (ControllerConfig, {"min_learners": 1, "batchsize": 3}, "batch_size"),
        (ModelStoreConfig, {"linage_length": 1}, "lineage_length"),
        (TerminationSignals, {"federation_round": 3}, "federation_rounds"),
        (ServerParams, {"host_name": "localhost"}, "hostname"),
        (ClientParams, {"root_certificates": "ca.pem"}, "root_certificate"),
    ],
)
def test_a_misspelt_keyword_is_told_what_was_probably_meant(kind: type[Any], given: dict[str, Any], meant: str) -> None:
    *_, name = given
    with pytest.raises(ConfigError) as caught:
        kind(**given)
    assert caught.value.field == f"{kind.__name__}.{name}"
    assert caught.value.allowed == f"{meant} (the nearest of the known ones)"


def test_where_nothing_is_near_all_are_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        TerminationSignals(zzz=1)  # type: ignore[call-arg]
    assert "federation_rounds, global_updates, min_delta, mode" in caught.value.allowed
    assert nearest("zzz", ["b", "a"]) == "a, b"


def test_what_is_spelled_well_stays_a_dataclass_with_its_signature() -> None:
    config = ControllerConfig(min_learners=2)
    assert pickle.loads(pickle.dumps(config)) == config
    assert replace(config, min_learners=3).min_learners == 3
    assert list(inspect.signature(ServerParams).parameters)[:2] == ["hostname", "port"]
    assert ServerParams("localhost", 50051) == ServerParams(hostname="localhost", port=50051)
    with pytest.raises(TypeError):
        ControllerConfig("FedAvg")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("value", "place"),
    [(ControllerConfig(), "controller_config"), (ModelStoreConfig(), "model_store_config"), (50051, None)],
)
def test_a_controller_says_where_its_arguments_belong(value: Any, place: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Controller(value)
    belongs = "" if place is None else f"; a {type(value).__name__} is given as {place}=..."
    assert caught.value.allowed == f"a ServerParams, or None{belongs}"
