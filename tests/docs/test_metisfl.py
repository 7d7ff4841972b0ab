"""What docs/metisfl.md says of each of MetisFL's names is so."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from federations import PATIENCE_S, Adds
from pages import ROOT, members, public

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationEnvironment,
    FederationResult,
    LearnerRecord,
    RoundRecord,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.compat import EncryptionConfig, app
from metisfl_async.data import iid_partition
from metisfl_async.environment.endpoint import Endpoint
from metisfl_async.transport._proto import metisfl_pb2

PAGE = (ROOT / "docs" / "metisfl.md").read_text()
ROW = r"^\| `([^`]+)` \| ([^|]+?) \|(?: ([^|]*?))? \|$"
SERVICES = metisfl_pb2.DESCRIPTOR.services_by_name
MESSAGES = metisfl_pb2.DESCRIPTOR.message_types_by_name


def rows_of(title: str) -> list[tuple[str, str, str]]:
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(ROW, section, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| `", section, re.MULTILINE)) > 0, "a row without three columns"
    return rows


TITLES = ("Parties", "Configuration", "Environment files", "On the wire", "Logs and results", "Helpers", "Examples")
ROWS = [(title, *row) for title in TITLES for row in rows_of(title)]
HERE = [(name, what.strip("`")) for _, name, what, _ in ROWS if what.startswith("`")]
REFUSED = {name: how for _, name, what, how in ROWS if what == "refused"}
ABSENT = [(title, name) for title, name, what, _ in ROWS if what == "not here"]


def test_every_row_says_here_refused_or_not_here() -> None:
    assert len(HERE) + len(REFUSED) + len(ABSENT) == len(ROWS) > 180
    for title in TITLES:
        names = [name for other, name, *_ in ROWS if other == title]
        assert len(set(names)) == len(names)


# --- here ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "what"), HERE)
def test_what_is_said_to_be_here_is(name: str, what: str) -> None:
    owner, _, member = what.partition(".")
    if owner in SERVICES and member in SERVICES[owner].methods_by_name:
        return
    if owner in MESSAGES and (not member or member in MESSAGES[owner].fields_by_name):
        return
    found = public(owner)
    assert not member or member in members(found), what


# --- environment files -----------------------------------------------------------------------------------------------

FILE: dict[str, Any] = {
    "CommunicationProtocol": {"Name": "SemiSynchronous", "SemiSyncLambda": 1.5, "SemiSyncRecompute": True},
    "TerminationSignals": {
        "FederationRounds": 7,
        "ExecutionCutoffTimeMins": 90,
        "EvaluationMetric": "f1",
        "EvaluationMetricCutoffScore": 0.75,
    },
    "ModelStoreConfig": {
        "ModelStore": "Redis",
        "ModelStoreHostname": "redis.example",
        "ModelStorePort": 6380,
        "EvictionPolicy": "LineageLengthEviction",
        "LineageLength": 3,
    },
    "GlobalModelConfig": {
        "AggregationRule": "FedStride",
        "ScalingFactor": "NumParticipants",
        "ParticipationRatio": 0.5,
        "StrideLength": 4,
    },
    "LocalModelConfig": {"BatchSize": 16, "LocalEpochs": 3},
    "Controller": {
        "ConnectionConfig": {"Hostname": "controller.example"},
        "GRPCServer": {"Hostname": "0.0.0.0", "Port": 50055},
        "SSLConfig": {"PublicCertificate": "/tls/server.pem", "PrivateKey": "/tls/server.key"},
    },
    "Learners": [{"ConnectionConfig": {"Hostname": "site.example"}, "GRPCServer": {"Port": 50056}}],
}
#: Where in an object what the file says is to be found, if it is not the whole field.
INSIDE: dict[str, Callable[[Any], object]] = {
    "LocalModelConfig.BatchSize": lambda params: params["batch_size"],
    "LocalModelConfig.LocalEpochs": lambda params: params["epochs"],
    "Controller.ConnectionConfig.Hostname": lambda endpoint: endpoint.hostname,
    "Controller.GRPCServer.Hostname": lambda endpoint: endpoint.listen_hostname,
    "Controller.GRPCServer.Port": lambda endpoint: endpoint.port,
    "Controller.SSLConfig.PublicCertificate": lambda endpoint: str(endpoint.root_certificate),
    "Controller.SSLConfig.PrivateKey": lambda endpoint: str(endpoint.private_key),
    "Learners.ConnectionConfig.Hostname": lambda entries: entries[0].endpoint.hostname,
    "Learners.GRPCServer.Port": lambda entries: entries[0].endpoint.port,
}
OWNERS = {
    "ControllerConfig": "controller_config",
    "TerminationSignals": "termination_signals",
    "ModelStoreConfig": "model_store_config",
}


def environment_of(folder: Path, sections: object) -> FederationEnvironment:
    file = folder / "federation.yaml"
    file.write_text(repr(sections).replace("True", "true"))  # flow style
    return FederationEnvironment.from_yaml(file)


@pytest.mark.parametrize(
    ("name", "what"),
    [(name, what.strip("`")) for name, what, _ in rows_of("Environment files") if what.startswith("`")],
)
def test_a_key_of_a_file_is_where_the_page_says(name: str, what: str, tmp_path: Path) -> None:
    misspelt = "PariticipationRatio"
    sections = FILE
    if name.endswith(misspelt):
        ratio = FILE["GlobalModelConfig"]["ParticipationRatio"]
        sections = FILE | {"GlobalModelConfig": {misspelt: ratio}}
        sections["CommunicationProtocol"] = {"Name": "Synchronous"}
    expected: Any = sections
    for key in name.split("."):
        expected = (expected[0] if isinstance(expected, list) else expected)[key]
    found: Any = environment_of(tmp_path, sections)
    owner, _, member = what.partition(".")
    if owner in OWNERS:
        found = getattr(found, OWNERS[owner])
    found = getattr(found, member)
    assert (INSIDE[name](found) if name in INSIDE else found) == expected


# --- refused ---------------------------------------------------------------------------------------------------------


def attempt(name: str, folder: Path) -> object:
    """Do what the page says is refused."""
    if name.startswith("EncryptionConfig"):
        field = name.partition(".")[2]
        return EncryptionConfig(**{field: "x"} if field else {})  # type: ignore[arg-type]
    if name == "ControllerConfig.aggregation_rule.SecAgg":
        return ControllerConfig(aggregation_rule="SecAgg")
    if name.startswith("ControllerConfig."):
        return ControllerConfig(**{name.partition(".")[2]: 4096})  # type: ignore[arg-type]
    if name == "iid_partition(x, 3, y)":
        return iid_partition(np.arange(6), 3, np.arange(6))  # type: ignore[call-overload]
    nested: object = "x"
    first, *keys = name.split(".")
    for key in reversed(keys):
        nested = {key: nested}
    minimal = {"TerminationSignals": {"FederationRounds": 1}, "Learners": [{}]}
    return environment_of(folder, minimal | {first: [nested] if first == "Learners" else nested})


@pytest.mark.parametrize(("name", "how"), REFUSED.items())
def test_what_is_refused_says_so(name: str, how: str, tmp_path: Path) -> None:
    quoted, *_ = re.findall(r'"([^"]+)"', how)
    with pytest.raises((ConfigError, TypeError)) as error:
        attempt(name, tmp_path)
    assert quoted in str(error.value)


# --- not here --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "name"), ABSENT)
def test_what_is_said_not_to_be_here_is_not(title: str, name: str) -> None:
    owner, _, member = name.rpartition(".")
    if title == "On the wire":
        methods = {method for service in SERVICES.values() for method in service.methods_by_name}
        fields = {field for message in MESSAGES.values() for field in message.fields_by_name}
        assert (member or owner) not in methods | set(MESSAGES.keys()) | fields
    elif title == "Logs and results":
        records = (RoundRecord, LearnerRecord, FederationResult)
        assert not any(member in members(record) for record in records)
    elif owner:
        assert member not in members(public(owner))
    else:
        with pytest.raises(ImportError, match=f"cannot import name '{name}'"):
            exec(f"from metisfl_async import {name}")


def test_arguments_that_are_not_here_are_named() -> None:
    some: dict[str, Any] = {"is_async": True}
    with pytest.raises(TypeError, match="unexpected keyword argument 'is_async'"):
        DriverSession(Controller(), [Adds(1)], TerminationSignals(federation_rounds=1), **some)
    some = {"enc_config": None}
    with pytest.raises(TypeError, match="unexpected keyword argument 'enc_config'"):
        app(Adds(1), ClientParams(), **some)


@pytest.mark.parametrize(
    "method",
    ["metisfl_async.v1.Controller/GetHealthStatus", "metisfl.ControllerService/JoinFederation"],
)
async def test_methods_that_are_not_here_are_answered_so(method: str) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        grpc.aio.insecure_channel(controller.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(f"/{method}")(b"")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_ports_are_as_the_page_says() -> None:
    assert (ClientParams().address, ServerParams().port, Endpoint().port) == ("127.0.0.1:50051", 0, 50051)
    assert "`ClientParams()` dials 127.0.0.1:50051" in PAGE
