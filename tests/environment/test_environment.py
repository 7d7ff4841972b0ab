"""Environment files in all the forms that MetisFL had, and what is made of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    FederationEnvironment,
    ModelStoreConfig,
    ServerParams,
    Simulation,
    TerminationSignals,
)
from metisfl_async.core.spelling import snake
from metisfl_async.environment.endpoint import Endpoint
from metisfl_async.environment.entries import InProcess, LearnerEntry, SessionOptions
from metisfl_async.environment.errors import ConfigFileError

MINIMAL = "termination_signals: {federation_rounds: 2}\nlearners: [{}, {}]\n"

CPP = """
FederationEnvironment:
  CommunicationProtocol:
    Name: Synchronous
  GlobalModelConfig:
    AggregationRule: FedAvg
    ScalingFactor: NumParticipants
    PariticipationRatio: 0.5
  LocalModelConfig:
    BatchSize: 32
    LocalEpochs: 4
  TerminationSingals:
    FederationRounds: 3
    ExecutionCutoffTimeMins: 1e1
    EvaluationMetric: accuracy
    EvaluationMetricCutoffScore: 0.9
  ModelStoreConfig:
    ModelStore: InMemory
    EvictionPolicy: NoEviction
  EncryptionScheme: {Name: None}
  Controller:
    ConnectionConfig: {Hostname: controller.example}
    GRPCServer: {Hostname: 0.0.0.0, Port: 50055}
    SSLConfig: {PrivateKey: key.pem, PublicCertificate: certificate.pem}
  Learners:
    - {LearnerID: a, args: {part: 0}}
    - {}
    -
"""


def read(folder: Path, text: str) -> FederationEnvironment:
    file = folder / "federation.yaml"
    file.write_text(text)
    return FederationEnvironment.from_yaml(file)


def test_a_short_file_leaves_the_rest_as_it_is_by_default(tmp_path: Path) -> None:
    assert read(tmp_path, MINIMAL) == FederationEnvironment(
        termination_signals=TerminationSignals(federation_rounds=2), learners=[LearnerEntry(), LearnerEntry()]
    )


def test_the_form_of_the_cpp_version_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, CPP) == FederationEnvironment(
        controller_config=ControllerConfig(
            scaling_factor="NumParticipants", participation_ratio=0.5, train_params={"batch_size": 32, "epochs": 4}
        ),
        termination_signals=TerminationSignals(
            federation_rounds=3,
            execution_cutoff_time_mins=10.0,
            evaluation_metric="accuracy",
            evaluation_metric_cutoff_score=0.9,
        ),
        model_store_config=ModelStoreConfig(lineage_length=0, eviction_policy="NoEviction"),
        controller_endpoint=Endpoint(
            hostname="controller.example",
            port=50055,
            listen_hostname="0.0.0.0",
            root_certificate=tmp_path / "certificate.pem",
            server_certificate=tmp_path / "certificate.pem",
            private_key=tmp_path / "key.pem",
        ),
        learners=[LearnerEntry(learner_id="a", args={"part": 0}), LearnerEntry(), LearnerEntry()],
    )


def test_the_form_of_the_python_version_is_read(tmp_path: Path) -> None:
    text = """
controller_config: {aggregation_rule: FedAvg, train_params: {x: 1}}
LocalModelConfig: {LocalEpochs: 2}
termination_signals: {federation_rounds: 1}
model_store_config: {model_store: InMemory, eviction_policy: LineageLengthEviction, lineage_length: 2}
encryption_config:
controller: {hostname: "::1", port: 7}
learners: [{id: b}]
session: {seed: 3, join_timeout_secs: 2.5, worker: process, stop_timeout_secs: 1.5}
"""
    assert read(tmp_path, text) == FederationEnvironment(
        controller_config=ControllerConfig(train_params={"x": 1, "epochs": 2}),
        termination_signals=TerminationSignals(federation_rounds=1),
        model_store_config=ModelStoreConfig(lineage_length=2, eviction_policy="LineageLengthEviction"),
        controller_endpoint=Endpoint(hostname="::1", port=7),
        learners=[LearnerEntry(learner_id="b")],
        session_options=SessionOptions(seed=3, join_timeout_secs=2.5, worker="process", stop_timeout_secs=1.5),
    )


def test_an_alias_stands_for_a_whole_value(tmp_path: Path) -> None:
    shared = "controller_config: {train_params: &both {size: 3}, eval_params: *both}\n"
    config = read(tmp_path, MINIMAL + shared).controller_config
    assert config.train_params == config.eval_params == {"size": 3}


@pytest.mark.parametrize("text", ["EncryptionScheme: none", "EncryptionScheme: {Name: null}", "EncryptionConfig: {}"])
def test_no_encryption_may_be_said(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, MINIMAL + text) == read(tmp_path, MINIMAL)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("GRPCServer", "grpc_server"),
        ("SSLConfig", "ssl_config"),
        ("LearnerID", "learner_id"),
        ("ExecutionCutoffTimeMins", "execution_cutoff_time_mins"),
        ("already_snake", "already_snake"),
    ],
)
def test_camel_case_is_understood(key: str, name: str) -> None:
    assert snake(key) == name


# --- every field -----------------------------------------------------------------------------------------------------


def fields() -> Iterator[tuple[str, type, str, object]]:
    """Give each field of the three classes with its section and its default."""
    for section, kind in (
        ("controller_config", ControllerConfig),
        ("model_store_config", ModelStoreConfig),
        ("termination_signals", TerminationSignals),
    ):
        for name, parameter in inspect.signature(kind).parameters.items():
            if name != "learners":  # a section of its own
                yield section, kind, name, parameter.default


def in_yaml(default: Any) -> object:
    """Give a default that a file can hold."""
    return {} if inspect.isclass(default) or repr(default) == "<factory>" else default


@pytest.mark.parametrize(("section", "kind", "name", "default"), list(fields()), ids=lambda value: str(value)[:40])
def test_every_field_can_be_set_in_a_file(tmp_path: Path, section: str, kind: type, name: str, default: object) -> None:
    sections: dict[str, dict[str, object]] = {"termination_signals": {"federation_rounds": 7}, section: {}}
    camel = name.title().replace("_", "")
    for key in (name, camel):
        sections[section] = {key: in_yaml(default)}
        if section == "termination_signals" and name != "federation_rounds":
            sections[section]["federation_rounds"] = 7
        elif name == "federation_rounds":
            sections[section] = {key: 7}
        environment = read(tmp_path, json.dumps(sections | {"learners": [{}]}))  # JSON is YAML
        assert environment == FederationEnvironment(
            termination_signals=TerminationSignals(federation_rounds=7), learners=[LearnerEntry()]
        )


@pytest.mark.parametrize(("section", "kind", "name", "default"), list(fields()), ids=lambda value: str(value)[:40])
def test_every_field_is_checked_by_its_class_and_told_with_its_line(
    tmp_path: Path, section: str, kind: type, name: str, default: object
) -> None:
    wrong: dict[str, Any] = {name: [-1]}  # right for nobody
    with pytest.raises(ConfigError) as ours:
        kind(**wrong)
    text = f"{MINIMAL if section != 'termination_signals' else 'learners: [{}]'}\n{section}:\n  {name}: [-1]\n"
    with pytest.raises(ConfigFileError) as caught:
        read(tmp_path, text)
    assert caught.value.allowed == ours.value.allowed
    assert caught.value.field.startswith(section)


# --- what is made of it ----------------------------------------------------------------------------------------------


def test_files_are_looked_at_where_they_are_used(tmp_path: Path) -> None:
    text = "controller:\n  hostname: localhost\n  port: 1234\n  root_certificate: {}\n"
    text += "  server_certificate: b.pem\n  private_key: sub/c.pem\n"
    (tmp_path / "a.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    environment = read(tmp_path, MINIMAL + text.format("a.pem"))
    assert environment.client_params() == ClientParams("localhost", 1234, tmp_path / "a.pem")
    with pytest.raises(ConfigFileError, match=r"line 7: controller\.server_certificate is .*b\.pem"):
        environment.controller()
    absolute = read(tmp_path, MINIMAL + text.format(tmp_path / "nowhere" / "a.pem"))
    with pytest.raises(ConfigFileError, match=r"line 6: controller\.root_certificate is .*nowhere"):
        absolute.client_params()
    with pytest.raises(ConfigError, match="root_certificate"):
        Endpoint(root_certificate=Path("x"), server_certificate=Path("x"), private_key=Path("x")).client_params()


def test_the_controller_listens_where_the_file_says(tmp_path: Path) -> None:
    text = "controller: {hostname: a.example, port: 1234, listen_hostname: 0.0.0.0, insecure: true}\n"
    environment = read(tmp_path, MINIMAL + text + "controller_config: {min_learners: 2}\n")
    controller = environment.controller()
    assert isinstance(controller, Controller)
    assert controller.server_params == ServerParams("0.0.0.0", 1234, insecure=True)
    assert controller.controller_config == ControllerConfig(min_learners=2)
    assert environment.client_params() == ClientParams("a.example", 1234)


@pytest.mark.parametrize(
    ("learners", "asked", "entry"),
    [
        ([{"learner_id": "a"}, {"learner_id": "b"}], "b", LearnerEntry(learner_id="b")),
        ([{"learner_id": "a"}], "", LearnerEntry(learner_id="a")),
        ([{}, {}], "", LearnerEntry()),
        ([{}, {}], "c", LearnerEntry(learner_id="c")),
        ([{"learner_id": "a", "args": {"x": 1}}, {}], "a", LearnerEntry(learner_id="a", args={"x": 1})),
        ([{"learner_id": "a"}, {}], "", LearnerEntry()),
    ],
)
def test_a_learner_finds_its_entry(tmp_path: Path, learners: object, asked: str, entry: LearnerEntry) -> None:
    text = json.dumps({"termination_signals": {"federation_rounds": 1}, "learners": learners})
    assert read(tmp_path, text).entry(asked) == entry


@pytest.mark.parametrize(
    ("asked", "allowed"), [("site1", "site-1 (the nearest of the known ones)"), ("", "one of site-1, site-2")]
)
def test_a_learner_that_is_not_in_the_file_is_told_who_is(tmp_path: Path, asked: str, allowed: str) -> None:
    environment = read(tmp_path, f"{MINIMAL.splitlines()[0]}\nlearners: [{{id: site-1}}, {{id: site-2}}]\n")
    with pytest.raises(ConfigError) as caught:
        environment.entry(asked)
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("learner_id", asked, allowed)


async def test_learners_may_be_a_number(tmp_path: Path) -> None:
    environment = read(tmp_path, f"{MINIMAL.splitlines()[0]}\nlearners: 3\n")
    assert environment.learners == [LearnerEntry()] * 3
    assert environment.entry("anybody") == LearnerEntry(learner_id="anybody")
    result = await environment.session([Adds(1), Adds(2), Adds(3)]).run()
    assert [len(record.participants) for record in result.rounds] == [3, 3]


@pytest.mark.parametrize("number", ["0", "-1", "true", "2.5", "two"])
def test_a_wrong_number_of_learners_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(ConfigError, match="line 2: learners is"):
        read(tmp_path, f"{MINIMAL.splitlines()[0]}\nlearners: {number}\n")


async def test_a_session_with_live_learners_runs_in_this_process(tmp_path: Path) -> None:
    text = "controller_config: {scaling_factor: NumParticipants, train_params: {x: 1}}\n"
    environment = read(tmp_path, f"{MINIMAL.splitlines()[0]}\nlearners: [{{id: left}}, {{}}]\n{text}")
    learners = [Adds(1), Adds(3)]
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S):
        result = await environment.session(learners).run()
    assert [sorted(record.learners) for record in result.rounds] == [["learner-1", "left"]] * 2
    assert result.final_model is not None
    assert result.final_model[0] == 4.0  # twice the mean
    assert learners[0].configs == [{"round_number": number, "x": 1} for number in (1, 2)]


async def test_the_parties_of_one_file_find_each_other(tmp_path: Path, free_port: int) -> None:
    text = f"controller: {{port: {free_port}}}\nsession: {{join_timeout_secs: 20}}\n"
    environment = read(tmp_path, f"{MINIMAL.splitlines()[0]}\nlearners: [{{id: a}}, {{}}]\n{text}")
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(environment.run_learner(Adds(1), "a"))
        group.create_task(environment.run_learner(Adds(1), "b"))
        async with environment.controller() as controller:
            group.create_task(controller.serve())
            result = await environment.session().run()
    assert [sorted(record.learners) for record in result.rounds] == [["a", "b"]] * 2


async def test_learners_with_a_port_listen(tmp_path: Path, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    entries = f"[{{id: a, hostname: 127.0.0.1, port: {port}, listen_hostname: 0.0.0.0, insecure: true}}, {{id: b}}]"
    environment = read(tmp_path, f"{MINIMAL.splitlines()[0]}\nlearners: {entries}\ncontroller: {{port: {free_port}}}\n")
    assert environment.controller().controller_config.learners == (ClientParams("127.0.0.1", port),)
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(environment.run_learner(Adds(1), "a"))
        group.create_task(environment.run_learner(Adds(1), "b"))
        async with environment.controller() as controller:
            group.create_task(controller.serve())
            result = await environment.session().run()
    assert [sorted(record.learners) for record in result.rounds] == [["a", "b"]] * 2


def test_a_learner_that_listens_has_its_address_for_a_name(tmp_path: Path) -> None:
    text = f"{MINIMAL.splitlines()[0]}\nLearners: [{{GRPCServer: {{Hostname: site.example, Port: 50052}}}}]\n"
    assert [entry.learner_id for entry in read(tmp_path, text).learners] == ["site.example:50052"]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "model_store_config: {model_store: Disk, directory: models}\n"
    assert read(tmp_path, MINIMAL + text).model_store_config.directory == tmp_path / "models"


async def test_live_learners_may_talk_over_the_port(tmp_path: Path, free_port: int) -> None:
    environment = read(tmp_path, f"{MINIMAL}controller: {{port: {free_port}}}\n")
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S):
        result = await environment.session([Adds(1), Adds(1)], listen=True).run()
    assert result.model_version == 2


def test_a_session_needs_a_learner_for_each_entry(tmp_path: Path) -> None:
    environment = read(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match="learners is 1; allowed: 2 of them"):
        environment.session([Adds(1)])
    with pytest.raises(ConfigError, match="listen is True"):
        environment.session(listen=True)


def test_only_simulated_learners_need_no_entries(tmp_path: Path) -> None:
    environment = read(tmp_path, MINIMAL.splitlines()[0])
    simulated = environment.session(Simulation(Adds, learners=5, workers=1))
    assert simulated._request.num_learners == 5
    for refused in (environment.entry, environment.session, lambda: environment.session([])):
        with pytest.raises(ConfigError, match="learners is None; allowed: a list with an entry for each learner"):
            refused()


def test_an_environment_made_in_code_is_checked() -> None:
    signals = TerminationSignals(federation_rounds=1)
    twice = [LearnerEntry(learner_id="a"), LearnerEntry(learner_id="a")]
    with pytest.raises(ConfigError, match="each learner_id once"):
        FederationEnvironment(termination_signals=signals, learners=twice)
    with pytest.raises(ConfigError, match="worker"):
        SessionOptions(worker="fork")  # type: ignore[arg-type]
    assert get_args(InProcess) == ("thread", "process")


def test_the_package_works_without_yaml(tmp_path: Path) -> None:
    (tmp_path / "ruamel").mkdir()
    (tmp_path / "ruamel" / "__init__.py").touch()  # hides the real one
    code = (
        "import metisfl_async as fl\ntry: fl.FederationEnvironment.from_yaml('x')\nexcept fl.ConfigError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "from_yaml is 'x'; allowed: once installed: pip install ruamel.yaml\n"
