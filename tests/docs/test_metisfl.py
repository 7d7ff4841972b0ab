"""What docs/metisfl.md says of each of MetisFL's names is so."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT

import metisfl_async
from metisfl_async import ConfigError, ControllerConfig, EncryptionConfig, FederationEnvironment
from metisfl_async.transport._proto import metisfl_pb2

PAGE = (ROOT / "docs" / "metisfl.md").read_text()
ROWS = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.MULTILINE)
HERE = [(name, what.strip("`")) for name, what, _ in ROWS if what.startswith("`")]
REFUSED = [(name, how) for name, what, how in ROWS if what == "refused"]
LEARNER = "learners: [{}]\nTerminationSignals: {FederationRounds: 1}\n"


def from_file(text: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        file = folder / "federation.yaml"
        file.write_text(text)
        return FederationEnvironment.from_yaml(file)

    return read


#: How each refused name is met.
ATTEMPTS: dict[str, Callable[[Path], object]] = {
    "SecAgg": lambda _: ControllerConfig(aggregation_rule="SecAgg"),
    "crypto_context": lambda _: ControllerConfig(crypto_context="ctx.bin"),  # type: ignore[arg-type]
    "batch_size": lambda _: ControllerConfig(batch_size=4096),  # type: ignore[arg-type]
    "scaling_factor_bits": lambda _: ControllerConfig(scaling_factor_bits=52),  # type: ignore[arg-type]
    "EncryptionConfig": lambda _: EncryptionConfig(he_scheme="CKKS"),
    "ValidationPercentage": from_file(LEARNER + "LocalModelConfig: {BatchSize: 1, ValidationPercentage: 10}"),
    "Optimizer": from_file(LEARNER + "LocalModelConfig: {BatchSize: 1, Optimizer: SGD}"),
    "OptimizerParams": from_file(LEARNER + "LocalModelConfig: {BatchSize: 1, OptimizerParams: {LearningRate: 0.1}}"),
    "EncryptionScheme": from_file(LEARNER + "EncryptionScheme: {Name: CKKS}"),
    "Username": from_file("Controller: {ConnectionConfig: {Hostname: a, Username: me}}\n" + LEARNER),
    "ProjectHome": from_file("Controller: {ProjectHome: /srv}\n" + LEARNER),
    "CudaDevices": from_file("Controller: {CudaDevices: [0]}\n" + LEARNER),
}


def test_every_row_says_here_refused_or_not_here() -> None:
    assert len(ROWS) == len(re.findall(r"^\| `", PAGE, re.MULTILINE)) > 100
    assert len(HERE) + len(REFUSED) + sum(what == "not here" for _, what, _ in ROWS) == len(ROWS)
    assert {name for name, _ in REFUSED} == ATTEMPTS.keys()


@pytest.mark.parametrize(("name", "what"), HERE)
def test_what_is_said_to_be_here_is(name: str, what: str) -> None:
    owner, _, member = what.partition(".")
    services = metisfl_pb2.DESCRIPTOR.services_by_name
    if member and owner in services and member in services[owner].methods_by_name:
        return
    found = getattr(metisfl_async, owner)
    if member:
        fields = [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
        assert member in fields or callable(getattr(found, member)), what


@pytest.mark.parametrize(("name", "how"), REFUSED)
def test_what_is_refused_says_so(name: str, how: str, tmp_path: Path) -> None:
    (quoted,) = re.findall(r'"([^"]+)"', how)
    with pytest.raises(ConfigError) as error:
        ATTEMPTS[name](tmp_path)
    assert quoted in str(error.value)
