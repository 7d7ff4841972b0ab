from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metisfl_async.core.codecs import UPDATE_CODECS
from metisfl_async.core.config import (
    ClientParams,
    ControllerConfig,
    EncryptionConfig,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.config.controller import NO_ENCRYPTION
from metisfl_async.core.errors import ConfigError, brief
from metisfl_async.core.strategies.aggregation.by_name import RULES as RULES_BY_NAME
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from metisfl_async.core.strategies.scheduling import SemiSynchronous
from metisfl_async.core.strategies.selection import Scheduled

RULES = ", ".join(RULES_BY_NAME)
SCALING_FACTORS = "NumTrainingExamples, NumCompletedBatches, NumParticipants"
POSITIVE = "a finite number > 0"
MONTH = "< 2.592e+06"
NOT_NEGATIVE = "a finite number >= 0"
NAMES = "a list of names, which the result must have"
MINE = Scheduled(0.5, 1)

#: What makes it, with which options, and then the field, value and allowed values that the error names.
PEM = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
WRONG: list[tuple[Callable[..., object], dict[str, Any], str, object, str]] = [
    *(
        (ControllerConfig, {field: value}, field, value, allowed)
        for field, value, allowed in [
            ("aggregation_rule", "FedProx", f"{RULES}, or an AggregationRule object"),
            ("aggregation_rule", None, f"{RULES}, or an AggregationRule object"),
            ("aggregation_rule", FedAvg, f"{RULES}, or an AggregationRule object"),
            ("aggregation_rule", "SecAgg", f"{RULES}; SecAgg is not implemented yet"),
            ("scheduler", "synchronous", "Synchronous, SemiSynchronous, Asynchronous, or a Scheduler object"),
            ("selector", "random", "Scheduled, ScheduledCardinality, a Selector object, or None"),
            ("selector", 3, "Scheduled, ScheduledCardinality, a Selector object, or None"),
            ("stride_length", 3, "None, except with aggregation_rule 'FedStride'"),
            ("semi_sync_lambda", 2.0, "None, except with scheduler 'SemiSynchronous'"),
            ("semi_sync_recompute_num_updates", False, "None, except with scheduler 'SemiSynchronous'"),
            ("semi_sync_max_slowness", 3.0, "None, except with scheduler 'SemiSynchronous'"),
            ("rule_params", [1], "a dict"),
            ("cutoff_score", "min_learners", "mean, median, quorum"),
            ("crypto_context", "ctx.bin", NO_ENCRYPTION),
            ("scaling_factor_bits", 52, NO_ENCRYPTION),
            ("batch_size", 4096, f"{NO_ENCRYPTION}; for training, train_params={{'batch_size': ...}}"),
            ("params_hook", {"epochs": 1}, "a function (kind, round_number, learner, params) -> params, or None"),
            ("scaling_factor", "NumExamples", SCALING_FACTORS),
            ("scaling_factor", 1, SCALING_FACTORS),
            ("scheduler", 1, "Synchronous, SemiSynchronous, Asynchronous, or a Scheduler object"),
            ("train_params", [1], "a dict"),
            ("eval_params", None, "a dict"),
            ("best_metric", "", "the name of a metric, such as 'accuracy', or None"),
            ("best_metric", 3, "the name of a metric, such as 'accuracy', or None"),
            ("best_mode", "most", "max, min"),
            ("evaluate_every", -1, "an integer >= 0"),
            ("evaluate_every", 1.0, "an integer >= 0"),
            ("evaluate_every", True, "an integer >= 0"),
            ("participation_ratio", 0, "a finite number > 0 and <= 1"),
            ("participation_ratio", 1.01, "a finite number > 0 and <= 1"),
            ("participation_ratio", -3, "a finite number > 0 and <= 1"),
            ("participation_ratio", True, "a finite number > 0 and <= 1"),
            ("min_learners", 0, "an integer >= 1"),
            ("min_learners", "2", "an integer >= 1"),
            ("min_learners", np.int64(2), "an integer >= 1"),
            ("max_failed_rounds", 0, "an integer >= 1"),
            ("max_model_bytes", 0, "an integer >= 1"),
            ("max_model_bytes", 1e9, "an integer >= 1"),
            ("max_inflight_bytes", 0, "an integer >= 1"),
            ("max_downloads", 0, "an integer >= 1"),
            ("max_relayed_learners", -1, "an integer >= 0"),
            ("update_codec", "int4", UPDATE_CODECS),
            ("update_codec", None, UPDATE_CODECS),
            ("update_codec", "topk:0", UPDATE_CODECS),
            ("download_codec", "topk:0.1", "raw, bf16, int8"),
            ("max_weight", 0, f"a finite number > 0 and <= {2**53}"),
            ("max_weight", 2**53 + 1, f"a finite number > 0 and <= {2**53}"),
        ]
    ),
    *(
        (ControllerConfig, {field: value}, field, value, POSITIVE)
        for field in (
            "round_timeout_secs",
            "quorum_timeout_secs",
            "driver_lost_secs",
            "upload_idle_secs",
            "farewell_timeout_secs",
        )
        for value in (0, -1.5, math.inf, "60", True, 10**400)
    ),
    *(
        (
            ControllerConfig,
            {"min_upload_bytes_per_sec": value},
            "min_upload_bytes_per_sec",
            value,
            "a finite number >= 0",
        )
        for value in (-1, math.nan, math.inf, "1000", True, 10**400)
    ),
    *(
        (ControllerConfig, {params: {key: value}}, f"{params}[{key!r}]", value, NAMES)
        for params, key in (("train_params", "metrics"), ("train_params", "metadata"), ("eval_params", "metrics"))
        for value in ("loss", None, ["loss", 1], {"loss": 1})
    ),
    # --- what does not go together
    (
        ControllerConfig,
        {"update_codec": "int8", "scheduler": "Asynchronous"},
        "update_codec",
        "int8",
        "'raw' without rounds: a change says nothing where the model that it changes may be gone",
    ),
    (
        ControllerConfig,
        {"update_codec": "bf16", "aggregation_rule": "TreeBagging"},
        "update_codec",
        "bf16",
        "'raw' with TreeBagging, which needs the numbers as they are",
    ),
    (
        ControllerConfig,
        {"aggregation_rule": "FedBuff"},
        "scheduler",
        "Synchronous",
        "Asynchronous, which the rule FedBuff needs",
    ),
    (
        ControllerConfig,
        {"aggregation_rule": "FedAsync", "scheduler": "SemiSynchronous", "semi_sync_lambda": 1.0},
        "scheduler",
        "SemiSynchronous",
        "Asynchronous, which the rule FedAsync needs",
    ),
    (
        ControllerConfig,
        {"scheduler": "SemiSynchronous"},
        "semi_sync_lambda",
        None,
        "a finite number > 0, which scheduler 'SemiSynchronous' needs",
    ),
    (
        ControllerConfig,
        {"scheduler": "SemiSynchronous", "semi_sync_recompute_num_updates": True},
        "semi_sync_lambda",
        None,
        "a finite number > 0, which scheduler 'SemiSynchronous' needs",
    ),
    *(
        (
            ControllerConfig,
            {"scheduler": "SemiSynchronous", "semi_sync_lambda": value},
            "semi_sync_lambda",
            value,
            POSITIVE,
        )
        for value in (0, -2.0, "2", True)
    ),
    (
        ControllerConfig,
        {"scheduler": "SemiSynchronous", "semi_sync_lambda": 1.0, "semi_sync_recompute_num_updates": 1},
        "semi_sync_recompute_num_updates",
        1,
        "True or False",
    ),
    *(
        (
            ControllerConfig,
            {"aggregation_rule": "FedStride", "stride_length": value},
            "stride_length",
            value,
            "an integer >= 1",
        )
        for value in (0, -1, 2.0)
    ),
    (
        ControllerConfig,
        {"scheduler": "Asynchronous", "selector": "Scheduled"},
        "selector",
        "Scheduled",
        "'ScheduledCardinality' (or None), since FedAvg without rounds would be the latest update alone; or the rule "
        "FedRec, FedAsync or FedBuff",
    ),
    (
        ControllerConfig,
        {"selector": MINE, "participation_ratio": 0.5},
        "participation_ratio",
        0.5,
        "1.0: your selector decides who is asked",
    ),
    # --- objects of ours
    (FedStride, {"stride_length": 0}, "stride_length", 0, "an integer >= 1"),
    (SemiSynchronous, {"semi_sync_lambda": 0}, "semi_sync_lambda", 0, POSITIVE),
    (
        SemiSynchronous,
        {"semi_sync_lambda": 1, "recompute_num_updates": None},
        "semi_sync_recompute_num_updates",
        None,
        "True or False",
    ),
    *((FedAsync, {"mixing": value}, "mixing", value, "a finite number > 0 and <= 1") for value in (0.0, 1.5, "1")),
    (FedAsync, {"staleness": "linear"}, "staleness", "linear", "constant, polynomial, hinge"),
    *((FedAsync, {name: -1.0}, name, -1.0, NOT_NEGATIVE) for name in ("exponent", "slope", "hinge_start")),
    (FedBuff, {"updates_per_version": 0}, "updates_per_version", 0, "an integer >= 1"),
    (FedBuff, {"learning_rate": 0.0}, "learning_rate", 0.0, POSITIVE),
    (FedBuff, {"exponent": -0.5}, "exponent", -0.5, NOT_NEGATIVE),
    (FedBuff, {"max_staleness": -1}, "max_staleness", -1, "an integer >= 0"),
    *((kind, {"learning_rate": -1.0}, "learning_rate", -1.0, POSITIVE) for kind in (FedAvgM, FedAdam)),
    (FedAvgM, {"momentum": 1.0}, "momentum", 1.0, "a finite number >= 0 and < 1"),
    (FedYogi, {"beta_1": -0.1}, "beta_1", -0.1, "a finite number >= 0 and < 1"),
    (FedAdam, {"beta_2": 1}, "beta_2", 1, "a finite number >= 0 and < 1"),
    (FedAdagrad, {"tau": 0.0}, "tau", 0.0, POSITIVE),
    (EncryptionConfig, {}, "EncryptionConfig", "CKKS", NO_ENCRYPTION),
    *(
        (EncryptionConfig, {name: 1}, "EncryptionConfig", "CKKS", NO_ENCRYPTION)
        for name in ("batch_size", "scaling_factor_bits", "crypto_context", "public_key", "private_key")
    ),
    (EncryptionConfig, {"he_scheme": "PAILLIER"}, "EncryptionConfig", "PAILLIER", NO_ENCRYPTION),
    *(
        (ControllerConfig, {"on_driver_lost": value}, "on_driver_lost", value, "finish, stop")
        for value in ("wait", None, True)
    ),
    # --- times
    *(
        (ControllerConfig, {"heartbeat_secs": value}, "heartbeat_secs", value, f"a finite number >= 0.01 and {MONTH}")
        for value in (None, 0, 0.009, -1.5, math.inf, 30 * 86_400, "60", True, 10**400)
    ),
    *(
        (ControllerConfig, {"lease_secs": value}, "lease_secs", value, f"a finite number >= 0 and {MONTH}")
        for value in (None, -1.5, math.inf, 30 * 86_400, "60", True, 10**400)
    ),
    *(
        (
            ControllerConfig,
            {name: {"x": "y" * 2**22}},
            name,
            "JSON of 4194313 bytes",
            "at most 3145728 bytes; for more, a file",
        )
        for name in ("train_params", "eval_params")
    ),
    (ControllerConfig, {"lease_secs": 19.9}, "lease_secs", 19.9, "at least 2 * heartbeat_secs = 20.0"),
    (ControllerConfig, {"heartbeat_secs": 31}, "lease_secs", 60.0, "at least 2 * heartbeat_secs = 62"),
    (
        ControllerConfig,
        {"train_params": {"optimizer": {"lr": 1j}}},
        "train_params['optimizer']['lr']",
        1j,
        "None, a bool, a number, a string, or a list or dict of those",
    ),
    (ControllerConfig, {"eval_params": {1: 2}}, "a key of eval_params", 1, "a string"),
    *(
        (TerminationSignals, {name: value}, name, value, "an integer >= 1")
        for name in ("federation_rounds", "global_updates")
        for value in (0, 2.5, "3", True)
    ),
    *(
        (TerminationSignals, {"execution_cutoff_time_mins": value}, "execution_cutoff_time_mins", value, POSITIVE)
        for value in (0, -1.0, math.inf, "5", False)
    ),
    (TerminationSignals, {"federation_rounds": 1, "mode": "higher"}, "mode", "higher", "max, min"),
    (
        TerminationSignals,
        {"evaluation_metric": "accuracy"},
        "evaluation_metric_cutoff_score",
        None,
        "evaluation_metric and evaluation_metric_cutoff_score together, or evaluation_metric and patience_rounds",
    ),
    (
        TerminationSignals,
        {"evaluation_metric_cutoff_score": 0.0, "federation_rounds": 1},
        "evaluation_metric",
        None,
        "evaluation_metric and evaluation_metric_cutoff_score together",
    ),
    (
        TerminationSignals,
        {"patience_rounds": 3, "federation_rounds": 1},
        "evaluation_metric",
        None,
        "evaluation_metric and patience_rounds together",
    ),
    *(
        (
            TerminationSignals,
            {"evaluation_metric": "accuracy", "patience_rounds": value},
            "patience_rounds",
            value,
            "an integer >= 1",
        )
        for value in (0, 2.5, "3", True)
    ),
    *(
        (
            TerminationSignals,
            {"federation_rounds": 1, "min_delta": value},
            "min_delta",
            value,
            "a finite number >= 0",
        )
        for value in (-0.1, math.inf, "1", True)
    ),
    (
        TerminationSignals,
        {"evaluation_metric": 5, "evaluation_metric_cutoff_score": 0.9},
        "evaluation_metric",
        5,
        "the name of a metric, such as 'accuracy'",
    ),
    *(
        (
            TerminationSignals,
            {"evaluation_metric": "accuracy", "evaluation_metric_cutoff_score": value},
            "evaluation_metric_cutoff_score",
            value,
            "a finite number",
        )
        for value in ("0.9", True, math.inf, -math.inf, 10**400)
    ),
    (
        TerminationSignals,
        {},
        "TerminationSignals",
        None,
        "at least one of federation_rounds, global_updates, execution_cutoff_time_mins, "
        "evaluation_metric with evaluation_metric_cutoff_score or patience_rounds",
    ),
    *(
        (
            kind,
            {"hostname": ""},
            "hostname",
            "",
            "a host name or an IP address, nothing else",
        )
        for kind in (ServerParams, ClientParams)
    ),
    (
        ServerParams,
        {"hostname": None},
        "hostname",
        None,
        "a host name or an IP address, nothing else",
    ),
    *(
        (ServerParams, {"port": port}, "port", port, "an integer >= 0 and <= 65535")
        for port in (-1, 65_536, "80", None)
    ),
    (ClientParams, {"max_model_bytes": 0}, "max_model_bytes", 0, "an integer >= 1"),
    *((ClientParams, {"port": port}, "port", port, "an integer >= 1 and <= 65535") for port in (0, 65_536, 80.0)),
    (
        ClientParams,
        {"root_certificate": "/no/such.pem"},
        "root_certificate",
        "/no/such.pem",
        "the path of a PEM file that exists",
    ),
    (
        ClientParams,
        {"root_certificate": b"x"},
        "root_certificate",
        b"x",
        "bytes in PEM form (it has a line '-----BEGIN ...-----')",
    ),
    (ClientParams, {"root_certificate": 5}, "root_certificate", 5, "the path of a PEM file that exists"),
    (
        ControllerConfig,
        {"learners": "host:5"},
        "learners",
        "host:5",
        "a list of the ClientParams or ServerParams of learners that listen",
    ),
    (
        ControllerConfig,
        {"learners": ServerParams()},
        "learners",
        ServerParams(),
        "a list of the ClientParams or ServerParams of learners that listen",
    ),
    (
        ControllerConfig,
        {"learners": [ClientParams(port=5), ServerParams(port=5)]},
        "learners",
        "127.0.0.1:5",
        "each address once",
    ),
    (
        ControllerConfig,
        {"learners": ["host:5"]},
        "learners",
        "host:5",
        "a list of the ClientParams or ServerParams of learners that listen",
    ),
    (ControllerConfig, {"learners": [ServerParams()]}, "port", 0, "an integer >= 1 and <= 65535"),
    (ClientParams, {"certificate": PEM}, "private_key", None, "both of certificate and private_key, or neither"),
    (ClientParams, {"private_key": PEM}, "certificate", None, "both of certificate and private_key, or neither"),
    (
        ClientParams,
        {"certificate": PEM, "private_key": PEM},
        "certificate",
        PEM,
        "None, or give a root_certificate: it is for TLS",
    ),
    (
        ClientParams,
        {"certificate": PEM, "private_key": b"secret", "root_certificate": PEM},
        "private_key",
        "(not shown)",
        "bytes in PEM form (it has a line '-----BEGIN ...-----')",
    ),
    *(
        (ClientParams, {"token": token}, "token", "(not shown)", "None, or what `metisfl-async token` printed")
        for token in ("", "short", 5, "with a space in it, which no header carries")
    ),
    (
        ClientParams,
        {"token": "x" * 40, "hostname": "controller.example"},
        "token",
        "(not shown)",
        "None, or give a root_certificate: it would go in clear",
    ),
    *(
        (ServerParams, {name: value}, name, value, "True, False")
        for name in ("require_client_certificate", "insecure")
        for value in (None, 1, "yes")
    ),
    (
        ServerParams,
        {"require_client_certificate": True},
        "require_client_certificate",
        True,
        "False, or give the three files of TLS",
    ),
    *(
        (ServerParams, {name: __file__}, name, __file__, "None without require_client_certificate=True")
        for name in ("client_root_certificate", "subjects", "revoked")
    ),
    (ServerParams, {"tokens": "nowhere.txt"}, "tokens", "nowhere.txt", "the path of a file that exists"),
    (
        ServerParams,
        {"tokens": __file__, "hostname": "0.0.0.0"},
        "tokens",
        __file__,
        "None, or give the three files of TLS: a token would go in clear",
    ),
    (
        ServerParams,
        {"tokens": __file__, "insecure": True},
        "insecure",
        True,
        "False with require_client_certificate=True or tokens",
    ),
]


@pytest.mark.parametrize(("make", "options", "field", "value", "allowed"), WRONG)
def test_a_wrong_configuration_is_refused_with_field_value_and_what_is_allowed(
    make: Callable[..., object], options: dict[str, Any], field: str, value: object, allowed: str
) -> None:
    with pytest.raises(ConfigError) as error:
        make(**options)
    assert (error.value.field, error.value.value, error.value.allowed) == (field, value, allowed)
    assert str(error.value) == f"{field} is {brief(value)}; allowed: {allowed}"


@pytest.mark.parametrize(
    "kind", [ControllerConfig, EncryptionConfig, TerminationSignals, ClientParams], ids=lambda kind: kind.__name__
)
def test_every_option_has_a_wrong_value(kind: Callable[..., object]) -> None:
    options = {name for make, given, *_ in WRONG if make is kind for name in given}
    assert options >= inspect.signature(kind).parameters.keys()


@pytest.mark.parametrize("field", ["round_timeout_secs", "quorum_timeout_secs", "heartbeat_secs", "lease_secs"])
def test_nan_is_no_time(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} is nan; allowed: a finite number >"):
        ControllerConfig(**{field: math.nan})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="execution_cutoff_time_mins is nan"):
        TerminationSignals(execution_cutoff_time_mins=math.nan)


@pytest.mark.parametrize("other", [{"aggregation_rule": "FedRec"}, {"scheduler": "Asynchronous"}])
def test_relays_need_a_mean_in_rounds(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="max_relayed_learners is 3; allowed: 0 with"):
        ControllerConfig(max_relayed_learners=3, **other)


def test_nan_is_no_score() -> None:
    with pytest.raises(ConfigError, match="evaluation_metric_cutoff_score is nan; allowed: a finite number"):
        TerminationSignals(evaluation_metric="accuracy", evaluation_metric_cutoff_score=math.nan)


def test_what_is_right_is_taken_up_to_its_limits() -> None:
    ControllerConfig()
    ControllerConfig(
        scaling_factor="NumParticipants",
        evaluate_every=0,
        min_learners=1,
        round_timeout_secs=None,
        quorum_timeout_secs=None,
        max_failed_rounds=1,
        max_model_bytes=1,
        max_inflight_bytes=1,
        max_downloads=1,
        heartbeat_secs=0.5,
        lease_secs=1,
        upload_idle_secs=1e-3,
        farewell_timeout_secs=1e-3,
        min_upload_bytes_per_sec=0,
    )
    ModelStoreConfig()
    TerminationSignals(federation_rounds=1)
    TerminationSignals(execution_cutoff_time_mins=0.001)
    TerminationSignals(evaluation_metric="loss", evaluation_metric_cutoff_score=0.0, mode="min")
    TerminationSignals(evaluation_metric="r2", evaluation_metric_cutoff_score=-1)
    assert ServerParams() == ServerParams("127.0.0.1", 0, None, None, None)
    ServerParams("0.0.0.0", 65_535)
    assert ClientParams("site.example", 1).address == "site.example:1"


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (ControllerConfig(), "min_learners"),
        (ModelStoreConfig(), "lineage_length"),
        (TerminationSignals(federation_rounds=1), "mode"),
        (ServerParams(), "port"),
        (ClientParams(), "port"),
    ],
)
def test_a_configuration_does_not_change(made: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(made, field, 1)


@pytest.mark.parametrize("kind", [ControllerConfig, ModelStoreConfig, TerminationSignals])
def test_options_are_given_by_name(kind: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        kind(1)


def test_parameters_for_learners_become_plain_data_of_the_configurations_own() -> None:
    given: dict[str, Any] = {
        "epochs": np.int64(2),
        "rates": np.array([0.5, 0.25]),
        "layers": (1, 2),
        "more": {"a": None},
    }
    config = ControllerConfig(train_params=given, eval_params=given)
    given["more"]["a"] = 1
    expected = {"epochs": 2, "rates": [0.5, 0.25], "layers": [1, 2], "more": {"a": None}}
    assert config.train_params == config.eval_params == expected
    assert type(config.train_params["epochs"]) is int


# --- TLS files -----------------------------------------------------------------------------------------------------

FILES = ["root_certificate", "server_certificate", "private_key"]


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "some.pem"
    path.write_text("a comment\n-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n")
    return path


@pytest.mark.parametrize("given", [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
def test_a_server_has_all_tls_files_or_none(pem: Path, given: list[int]) -> None:
    with pytest.raises(ConfigError) as error:
        ServerParams(**{FILES[index]: pem for index in given})  # type: ignore[arg-type]
    missing = next(name for index, name in enumerate(FILES) if index not in given)
    assert (error.value.field, error.value.value) == (missing, None)
    assert error.value.allowed == "all of root_certificate, server_certificate, private_key, or none of them"


def test_who_checks_client_certificates_and_who_has_one_name_files_that_are_there(pem: Path) -> None:
    tls = dict.fromkeys(FILES, pem)
    server = ServerParams(**tls, require_client_certificate=True, client_root_certificate=pem)  # type: ignore[arg-type]
    assert server.client_root_certificate == pem
    client = ClientParams(root_certificate=pem, certificate=pem, private_key=pem)
    assert (client.certificate, client.private_key) == (pem, pem)
    absent = pem.with_name("absent.pem")
    with pytest.raises(ConfigError, match="client_root_certificate is "):
        ServerParams(**tls, require_client_certificate=True, client_root_certificate=absent)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="private_key is "):
        ClientParams(root_certificate=pem, certificate=pem, private_key=absent)


def test_tls_files_are_given_as_paths_or_strings(pem: Path) -> None:
    params = ServerParams("0.0.0.0", 50051, pem, str(pem), pem)
    assert params.client_params() == ClientParams("127.0.0.1", 50051, pem)
    ClientParams(root_certificate=str(pem))


@pytest.mark.parametrize("wrong", FILES)
def test_a_tls_file_that_is_not_there_or_not_in_pem_form_is_named(pem: Path, tmp_path: Path, wrong: str) -> None:
    der = tmp_path / "some.der"
    der.write_bytes(b"\x30\x82")
    for path, allowed in [
        (tmp_path / "nowhere.pem", "the path of a PEM file that exists"),
        (tmp_path, "the path of a PEM file that exists"),
        (der, "a file in PEM form (it has a line '-----BEGIN ...-----')"),
    ]:
        with pytest.raises(ConfigError) as error:
            ServerParams(**(dict.fromkeys(FILES, pem) | {wrong: path}))  # type: ignore[arg-type]
        assert (error.value.field, str(error.value.value), error.value.allowed) == (wrong, str(path), allowed)


@pytest.mark.parametrize(
    ("hostname", "dialled"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("[::]", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("fl", "fl")],
)
def test_a_server_that_listens_everywhere_is_dialled_on_this_machine(hostname: str, dialled: str) -> None:
    params = ServerParams(hostname, 50051)
    assert params.client_params().address == f"{dialled}:50051"
    assert ServerParams(hostname).client_params(port=4711).address == f"{dialled}:4711"


def test_a_server_on_any_port_cannot_be_dialled_before_the_port_is_known() -> None:
    with pytest.raises(ConfigError, match="port is 0"):
        ServerParams().client_params()


@pytest.mark.parametrize("hostname", ["localhost", "controller.example", "127.0.0.1", "::1", "[::1]", "fe80::1%eth0"])
def test_hosts_are_names_or_addresses(hostname: str) -> None:
    assert ClientParams(hostname, 50051).hostname == hostname


@pytest.mark.parametrize("hostname", ["localhost:50051", "http://localhost", "0.0.0.0:50051", "a b", "[::1", "", 3])
def test_hosts_with_anything_else_are_refused(hostname: str) -> None:
    with pytest.raises(ConfigError, match=r"hostname is .*; allowed: a host name or an IP address, nothing else"):
        ClientParams(hostname, 50051)


def test_an_ipv6_address_gets_its_brackets() -> None:
    assert ClientParams("::1", 50051).address == ClientParams("[::1]", 50051).address == "[::1]:50051"


def test_learners_that_listen_are_named_as_metisfl_does_or_as_one_dials_them(pem: Path) -> None:
    of_server = ServerParams("0.0.0.0", 5, pem, pem, pem)
    named = ControllerConfig(learners=[of_server, ClientParams("host", 6)]).learners
    assert named == (ClientParams("127.0.0.1", 5, pem), ClientParams("host", 6))


def test_a_root_certificate_is_a_file_or_what_is_in_it(pem: Path) -> None:
    content = pem.read_bytes()
    given = [ClientParams(root_certificate=certificate) for certificate in (pem, str(pem), content)]
    assert [params.root_certificate_bytes for params in given] == [content] * 3
    assert ClientParams().root_certificate_bytes is None


def test_a_server_that_others_can_reach_says_whom_it_lets_in(pem: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("")
    for hostname in ("0.0.0.0", "::", "[::]", "10.0.0.7", "controller.example"):
        with pytest.raises(ConfigError) as error:
            ServerParams(hostname).check_safe()
        assert (error.value.field, error.value.value) == ("hostname", hostname)
        ways = error.value.allowed.split("\n  ")[1:]
        assert [way.partition(",")[0] for way in ways] == [
            "require_client_certificate=True",
            "tokens='tokens.txt'",
            "insecure=True",
        ]
        ServerParams(hostname, insecure=True).check_safe()
        ServerParams(hostname, 0, pem, pem, pem, require_client_certificate=True).check_safe()
        ServerParams(hostname, 0, pem, pem, pem, tokens=tokens).check_safe()
    for hostname in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "a.localhost"):
        ServerParams(hostname).check_safe()
    with pytest.raises(ConfigError, match=r"tokens is .*; allowed: None with require_client_certificate=True"):
        ServerParams("localhost", 0, pem, pem, pem, require_client_certificate=True, tokens=tokens)


def test_a_token_and_a_key_are_never_shown(pem: Path) -> None:
    params = ClientParams("a", 5, pem, certificate=PEM, private_key=PEM + b"secret", token="mfl_" + "secret" * 5)
    assert "secret" not in repr(params)
    assert params.pair_bytes == (PEM + b"secret", PEM)
