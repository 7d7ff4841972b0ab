"""What is wrong in an environment file is told with its line, its key, and what is allowed."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from metisfl_async import ConfigError, FederationEnvironment
from metisfl_async.environment.errors import ConfigFileError

END = "termination_signals: {federation_rounds: 1}\n"
WHO = "learners: [{}]\n"
SSH = "nobody logs in to other machines; only ConnectionConfig.Hostname is used, as the host to dial"

#: A file, the line that is told, and the rest of the message.
WRONG = [
    # --- YAML itself
    ("", 1, "the file is 'empty'; allowed: the sections of an environment"),
    ("a: b: c\n", 1, "the syntax is 'mapping values are not allowed here'; allowed: one YAML 1.2 document"),
    (END + "learners: [\n", 3, "the syntax is"),
    (END + "---\n" + WHO, 2, "the syntax is 'but found another document'"),
    ("- 1\n", 1, "the file is [1]; allowed: keys with values"),
    ("three\n", 1, "the file is 'three'; allowed: keys with values"),
    ("1: 2\n", 1, "a key of the file is 1; allowed: a string"),
    (END + WHO + "controller_config: &x {train_params: {a: *x}}\n", 3, "the number of values is '> 100000'"),
    (END + WHO + "controller_config: !!python/name:os.system {}\n", 3, "controller_config is 'tag:yaml.org,2002:pyth"),
    (END + WHO + "session: {seed: !secret 3}\n", 3, "the syntax is"),
    (
        END + WHO + "controller_config:\n  <<: {min_learners: 2}\n",
        4,
        "a key of controller_config is '<<'; allowed: keys",
    ),
    # --- keys
    (
        END + WHO + "controler: {}\n",
        3,
        "a key of the file is 'controler'; allowed: controller (the nearest of the known",
    ),
    (
        END + WHO + "zzz: {}\n",
        3,
        "a key of the file is 'zzz'; allowed: communication_protocol, controller, controller_co",
    ),
    (
        END + WHO + "controller_config:\n  min_learners: 1\n  partcipation_ratio: 0.5\n",
        5,
        "a key of controller_config is 'partcipation_ratio'; allowed: participation_ratio (the nearest of the known o",
    ),
    (
        END + WHO + "ControllerConfig:\n  MinLerners: 1\n",
        4,
        "a key of ControllerConfig is 'MinLerners'; allowed: min_learners (the nearest",
    ),
    (
        "termination_signals:\n  federation_round: 3\n",
        2,
        "a key of termination_signals is 'federation_round'; allowed: f",
    ),
    (END + WHO + END, 3, "a key of the file is 'termination_signals'; allowed: each key once; it stands in line 1 too"),
    (
        END + WHO + "controller_config:\n  min_learners: 1\n  min_learners: 1\n",
        5,
        "a key of controller_config is 'min_learners'; allowed: each key once; it stands in line 4 too",
    ),
    (
        END + WHO + "controller_config:\n  min_learners: 1\n  MinLearners: 1\n",
        5,
        "a key of controller_config is 'MinLearners'; allowed: one of the two; controller_config.min_learners in line",
    ),
    (
        END + "TerminationSingals: {FederationRounds: 2}\n",
        2,
        "a key of the file is 'TerminationSingals'; allowed: one of the two; termination_signals in line 1 is the same",
    ),
    (
        END + WHO + "controller_config: {scheduler: Synchronous}\nCommunicationProtocol: {Name: Synchronous}\n",
        4,
        "a key of CommunicationProtocol is 'Name'; allowed: one of the two; controller_config.scheduler in line 3 is ",
    ),
    (END + WHO + "Controller: {_found: {}}\n", 3, "a key of Controller is '_found'; allowed: "),
    # --- values
    (
        END + WHO + "controller_config:\n  train_params: {a: 1}\n  participation_ratio: 1.5\n",
        5,
        "controller_config.participation_ratio is 1.5; allowed: a finite number > 0 and <= 1",
    ),
    (
        END + WHO + "GlobalModelConfig:\n  PariticipationRatio: -3\n",
        4,
        "GlobalModelConfig.PariticipationRatio is -3; allowed: a finite number > 0 and <= 1",
    ),
    (
        END + WHO + "controller_config:\n  train_params:\n    day: 2020-02-02\n",
        4,
        "controller_config.train_params['day'] is datetime.date(2020, 2, 2); allowed: None, a bool, a number, a string",
    ),
    (END + WHO + "controller_config: 3\n", 3, "controller_config is 3; allowed: keys with values"),
    (
        END + WHO + "controller_config:\n  min_learners: 1\n  heartbeat_secs: 40\n",
        3,
        "controller_config.lease_secs is 60.0; allowed: at least 2 * heartbeat_secs = 80",
    ),
    (WHO, 1, "termination_signals is None; allowed: at least one of federation_rounds, global_updates"),
    (WHO + "termination_signals:\n  mode: most\n", 3, "termination_signals.mode is 'most'; allowed: max, min"),
    (
        WHO + "termination_signals:\n  federation_rounds: three\n",
        3,
        "termination_signals.federation_rounds is 'three'; allowed: an integer >= 1",
    ),
    (
        WHO + "termination_signals:\n  federation_rounds: 3\n  evaluation_metric: accuracy\n",
        2,
        "termination_signals.evaluation_metric_cutoff_score is None; allowed: evaluation_metric and",
    ),
    (
        END + WHO + "model_store_config: {model_store: Cloud}\n",
        3,
        "model_store_config.model_store is 'Cloud'; allowed: ",
    ),
    (END + WHO + "session: {seed: x}\n", 3, "session.seed is 'x'; allowed: an integer"),
    (END + WHO + "session: {join_timeout_secs: 0}\n", 3, "session.join_timeout_secs is 0; allowed: a number > 0"),
    (
        END + WHO + "session: {stop_timeout_secs: 0}\n",
        3,
        "session.stop_timeout_secs is 0; allowed: a finite number > 0",
    ),
    (END + WHO + "session: {worker: fork}\n", 3, "session.worker is 'fork'; allowed: thread, process"),
    # --- who is where
    (END + "learners:\n", 2, "learners is None; allowed: a list"),
    (END + "learners: []\n", 2, "learners is []; allowed: at least one entry; it may be empty: - {}"),
    (END + "learners: three\n", 2, "learners is 'three'; allowed: a list"),
    (END + "learners:\n  - learner_id: 3\n", 3, "learners[0].learner_id is 3; allowed: a string"),
    (
        END + "learners:\n  - learner_id: a\n  - learner_id: a\n",
        4,
        "learners[1].learner_id is 'a'; allowed: each learner_id once",
    ),
    (
        END + "learners:\n  - args: {x: 1}\n",
        3,
        "learners[0].learner_id is ''; allowed: a name, since args belong to one",
    ),
    (END + "learners:\n  - {learner_id: a, args: [1]}\n", 3, "learners[0].args is [1]; allowed: keys with values"),
    (END + "Learners:\n  - learner: a\n", 3, "a key of Learners[0] is 'learner'; allowed: learner_id (the nearest"),
    (END + WHO + "controller: {port: 0}\n", 3, "controller.port is 0; allowed: an integer >= 1 and <= 65535"),
    (
        END + WHO + "controller:\n  hostname: a b\n",
        4,
        "controller.hostname is 'a b'; allowed: a host name or an IP add",
    ),
    (
        END + WHO + "controller:\n  hostname: 0.0.0.0\n",
        4,
        "controller.hostname is '0.0.0.0'; allowed: the name or address that others dial; to listen everywhere, liste",
    ),
    (
        END + WHO + "controller: {listen_hostname: a/b}\n",
        3,
        "controller.listen_hostname is 'a/b'; allowed: a host name",
    ),
    (
        END + WHO + "controller:\n  root_certificate: ca.pem\n",
        3,
        "controller.server_certificate is None; allowed: all of root_certificate, server_certificate, private_key, or",
    ),
    (END + WHO + "controller: {private_key: 3}\n", 3, "controller.private_key is 3; allowed: the path of a PEM file"),
    (
        END + WHO + "Controller:\n  GRPCServer:\n    Port: 99999\n",
        5,
        "Controller.GRPCServer.Port is 99999; allowed: an integer >= 1 and <= 65535",
    ),
    # --- MetisFL's options that would have no effect
    (
        END + WHO + "Controller:\n  ProjectHome: /opt/metisfl\n",
        4,
        "a key of Controller is 'ProjectHome'; allowed: leave it out: nothing is copied to other machines or started ",
    ),
    (
        END + "Learners:\n  - CudaDevices: [0]\n",
        3,
        "a key of Learners[0] is 'CudaDevices'; allowed: leave it out: set the environment variable CUDA_VISIBLE_DEVI",
    ),
    *(
        (
            END + f"{WHO}Controller:\n  ConnectionConfig:\n    Hostname: a\n    {key}: x\n",
            6,
            f"a key of Controller.ConnectionConfig is '{key}'; allowed: leave it out: {SSH}",
        )
        for key in ("Port", "Username", "Password", "KeyFilename", "Passphrase", "OnLoginCommand")
    ),
    *(
        (END + f"{WHO}LocalModelConfig:\n  {key}: x\n", 4, f"a key of LocalModelConfig is '{key}'; allowed: leave it o")
        for key in ("Optimizer", "OptimizerParams", "ValidationPercentage")
    ),
    (END + WHO + "LocalModelConfig:\n  BatchSize: 0\n", 4, "LocalModelConfig.BatchSize is 0; allowed: an integer >= 1"),
    (
        END + WHO + "LocalModelConfig: {LocalEpochs: 1.5}\n",
        3,
        "LocalModelConfig.LocalEpochs is 1.5; allowed: an intege",
    ),
    (
        END + WHO + "LocalModelConfig: {BatchSize: 8}\ncontroller_config:\n  train_params:\n    batch_size: 8\n",
        6,
        "controller_config.train_params.batch_size is 8; allowed: one of the two; LocalModelConfig.BatchSize in line 3",
    ),
    (
        END + WHO + "EncryptionScheme:\n  Name: CKKS\n",
        4,
        "a key of EncryptionScheme is 'Name'; allowed: leave it out: updates are not encrypted for the controller; TLS",
    ),
    (
        END + WHO + "EncryptionConfig: CKKS\n",
        3,
        "a key of EncryptionConfig is 'name'; allowed: leave it out: updates are",
    ),
    (
        END + WHO + "EncryptionScheme: {Name: none, BatchSize: 8}\n",
        3,
        "a key of EncryptionScheme is 'BatchSize'; allowed",
    ),
    (END + WHO + "DockerImage: x\n", 3, "a key of the file is 'DockerImage'; allowed: leave it out: install this pac"),
    (
        END + WHO + "ModelStoreConfig:\n  EvictionPolicy: LRU\n",
        4,
        "ModelStoreConfig.EvictionPolicy is 'LRU'; allowed: NoEviction, LineageLengthEviction",
    ),
    (
        END + WHO + "ModelStoreConfig:\n  EvictionPolicy: NoEviction\n  LineageLength: 2\n",
        4,
        "ModelStoreConfig.EvictionPolicy is 'NoEviction'; allowed: NoEviction with lineage_length=0",
    ),
    (
        END + WHO + "controller_config: {scheduler: Asynchronous}\n",
        1,
        "termination_signals.federation_rounds is 1; allowed: None with Asynchronous",
    ),
    (END + WHO + "controller_config: {batch_size: 3}\n", 3, "controller_config.batch_size is 3; allowed: None"),
    (
        END + WHO + "controller_config: {learners: []}\n",
        3,
        "a key of controller_config is 'learners'; allowed: leave it",
    ),
    (
        END + "learners:\n  - learner_id: a\n    hostname: b\n",
        3,
        "learners[0].port is None; allowed: the port it listens on; a learner that dials the controller has no host",
    ),
    (END + "Learners:\n  - GRPCServer: {Port: x}\n", 3, "Learners[0].GRPCServer.Port is 'x'; allowed: an integer >= 1"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=lambda value: None if isinstance(value, int) else "")
def test_a_wrong_file_is_told_with_line_and_key(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text(text)
    with pytest.raises(ConfigFileError, match=re.escape(f"{file}, line {line}: {message}")) as caught:
        FederationEnvironment.from_yaml(file)
    assert caught.value.line == line


def test_a_secret_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text("Controller: {ConnectionConfig: {Password: hunter2}}\n")
    with pytest.raises(ConfigFileError) as caught:
        FederationEnvironment.from_yaml(file)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda file: None, Path.mkdir, lambda file: file.write_bytes(b"\xff")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: object) -> None:
    file = tmp_path / "federation.yaml"
    assert callable(make)
    make(file)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        FederationEnvironment.from_yaml(file)


def test_control_characters_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text("a: \x00\n")
    with pytest.raises(ConfigFileError, match="the syntax is"):
        FederationEnvironment.from_yaml(file)


def test_the_error_keeps_its_facts_when_pickled() -> None:
    error = ConfigFileError("a.yaml", 3, "controller.port", "x", "an integer")
    copy = pickle.loads(pickle.dumps(error))
    facts = (copy.file, copy.line, copy.field, copy.value, copy.allowed)
    assert facts == ("a.yaml", 3, "controller.port", "x", "an integer")
    assert str(copy) == str(error) == "a.yaml, line 3: controller.port is 'x'; allowed: an integer"
