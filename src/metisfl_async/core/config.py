"""What users decide, checked once, when it is made.

Names are MetisFL's where MetisFL has the option.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Literal, get_args

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import checked_json

__all__ = [
    "AggregationRule",
    "ClientParams",
    "ControllerConfig",
    "ModelStoreConfig",
    "ScalingFactor",
    "Scheduler",
    "ServerParams",
    "TerminationSignals",
    "address_of",
]

AggregationRule = Literal["FedAvg"]
Scheduler = Literal["Synchronous"]
ScalingFactor = Literal["NumTrainingExamples", "NumCompletedBatches", "NumParticipants"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerConfig:
    """How the controller trains: what is averaged, when a round ends, and what its peers may use."""

    aggregation_rule: AggregationRule = "FedAvg"
    scheduler: Scheduler = "Synchronous"
    scaling_factor: ScalingFactor = "NumTrainingExamples"  #: the weight of an update in the mean
    train_params: dict[str, Any] = field(default_factory=dict)  #: given to every `Learner.train` as its `config`
    eval_params: dict[str, Any] = field(default_factory=dict)  #: given to every `Learner.evaluate`
    evaluate_every: int = 1  #: evaluate the global model of every k-th round on its cohort; 0 = never
    participation_ratio: float = 1.0  #: share of the connected learners in a round, drawn with the session's seed
    min_learners: int = 1  #: how many must report for a round to count
    round_timeout_secs: float | None = None  #: for training, and again for evaluation; None = as long as learners live
    quorum_timeout_secs: float | None = 600.0  #: how long to wait for `min_learners` to be there again; None = for ever
    max_failed_rounds: int = 3  #: rounds in a row without `min_learners` updates before giving up
    max_model_bytes: int = 4 * 2**30  #: a larger update is refused on its header
    max_inflight_bytes: int = 128 * 2**20  #: updates being received at one time; at least one always is
    heartbeat_secs: float = 10.0  #: how often a learner shows that it lives
    lease_secs: float = 60.0  #: a learner that was silent for so long is taken out
    upload_idle_secs: float = 60.0  #: an update is dropped when no byte came for so long; its learner sends it again

    def __post_init__(self) -> None:
        _one_of("aggregation_rule", self.aggregation_rule, get_args(AggregationRule))
        _one_of("scheduler", self.scheduler, get_args(Scheduler))
        _one_of("scaling_factor", self.scaling_factor, get_args(ScalingFactor))
        for name in ("train_params", "eval_params"):
            params = checked_json(getattr(self, name), name)
            if not isinstance(params, dict):
                raise ConfigError(name, params, "a dict")
            object.__setattr__(self, name, params)
        _integer("evaluate_every", self.evaluate_every, 0)
        _positive("participation_ratio", self.participation_ratio, most=1)
        _integer("min_learners", self.min_learners, 1)
        _integer("max_failed_rounds", self.max_failed_rounds, 1)
        _integer("max_model_bytes", self.max_model_bytes, 1)
        _integer("max_inflight_bytes", self.max_inflight_bytes, 1)
        for name in ("round_timeout_secs", "quorum_timeout_secs"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        _positive("heartbeat_secs", self.heartbeat_secs)
        _positive("upload_idle_secs", self.upload_idle_secs)
        _positive("lease_secs", self.lease_secs)
        if self.lease_secs < 2 * self.heartbeat_secs:
            raise ConfigError("lease_secs", self.lease_secs, f"at least 2 * heartbeat_secs = {2 * self.heartbeat_secs}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStoreConfig:
    """Where global models are kept."""

    model_store: Literal["InMemory"] = "InMemory"
    lineage_length: int = 1  #: how many global models are kept, the latest first to last; 0 = all of them

    def __post_init__(self) -> None:
        _one_of("model_store", self.model_store, ("InMemory",))
        _integer("lineage_length", self.lineage_length, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminationSignals:
    """When a federation ends: at the first of these. At least one must be given."""

    federation_rounds: int | None = None
    execution_cutoff_time_mins: float | None = None  #: minutes since training started
    evaluation_metric: str | None = None  #: the weighted mean of this metric over the learners' evaluations ...
    evaluation_metric_cutoff_score: float | None = None  #: ... ends it once it reaches this; 0.0 is a score
    mode: Literal["max", "min"] = "max"  #: whether reaching is from below ("max", accuracy) or from above ("min", loss)

    def __post_init__(self) -> None:
        if self.federation_rounds is not None:
            _integer("federation_rounds", self.federation_rounds, 1)
        if self.execution_cutoff_time_mins is not None:
            _positive("execution_cutoff_time_mins", self.execution_cutoff_time_mins)
        _one_of("mode", self.mode, ("max", "min"))
        if (self.evaluation_metric is None) != (self.evaluation_metric_cutoff_score is None):
            missing = "evaluation_metric" if self.evaluation_metric is None else "evaluation_metric_cutoff_score"
            raise ConfigError(missing, None, "evaluation_metric and evaluation_metric_cutoff_score together")
        if self.evaluation_metric is not None and not isinstance(self.evaluation_metric, str):
            raise ConfigError("evaluation_metric", self.evaluation_metric, "the name of a metric, such as 'accuracy'")
        if self.evaluation_metric_cutoff_score is not None:
            _number("evaluation_metric_cutoff_score", self.evaluation_metric_cutoff_score)
        if (self.federation_rounds, self.execution_cutoff_time_mins, self.evaluation_metric) == (None, None, None):
            raise ConfigError(
                "TerminationSignals",
                None,
                "at least one of federation_rounds, execution_cutoff_time_mins, "
                "evaluation_metric with evaluation_metric_cutoff_score",
            )


@dataclass(frozen=True, slots=True)
class ServerParams:
    """Where a server listens. With TLS, all three files; without, none."""

    hostname: str = "127.0.0.1"
    port: int = 0  #: 0 = any free one
    root_certificate: str | Path | None = None  #: PEM; what clients check the server's certificate against
    server_certificate: str | Path | None = None  #: PEM; the server's certificate, and its chain
    private_key: str | Path | None = None  #: PEM

    def __post_init__(self) -> None:
        _hostname("hostname", self.hostname)
        _integer("port", self.port, 0, 65_535)
        files = {name: getattr(self, name) for name in ("root_certificate", "server_certificate", "private_key")}
        missing = [name for name, file in files.items() if file is None]
        if missing and len(missing) < len(files):
            raise ConfigError(missing[0], None, f"all of {', '.join(files)}, or none of them")
        for name, file in files.items():
            if file is not None:
                _pem_file(name, file)

    def client_params(self, port: int | None = None) -> ClientParams:
        """How to reach this server from the same machine; `port` is the one it got if it asked for any."""
        host = "127.0.0.1" if self.hostname in ("0.0.0.0", "::", "[::]") else self.hostname
        return ClientParams(host, self.port if port is None else port, self.root_certificate)


@dataclass(frozen=True, slots=True)
class ClientParams:
    """Which server to dial. With a root certificate, over TLS."""

    hostname: str = "127.0.0.1"
    port: int = 50051
    root_certificate: str | Path | None = None  #: PEM

    def __post_init__(self) -> None:
        _hostname("hostname", self.hostname)
        _integer("port", self.port, 1, 65_535)
        if self.root_certificate is not None:
            _pem_file("root_certificate", self.root_certificate)

    @property
    def address(self) -> str:
        return address_of(self.hostname, self.port)


def address_of(hostname: str, port: int) -> str:
    """Put a host and a port together; an IPv6 address gets its brackets."""
    return f"[{hostname}]:{port}" if ":" in hostname and not hostname.startswith("[") else f"{hostname}:{port}"


def _one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(field, value, ", ".join(allowed))


def _integer(field: str, value: object, least: int, most: int | None = None) -> None:
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ConfigError(field, value, f"an integer >= {least}" + (f" and <= {most}" if most is not None else ""))


def _number(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ConfigError(field, value, "a finite number")


def _positive(field: str, value: object, most: int | None = None) -> None:
    limit = sys.float_info.max if most is None else most
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= limit:
        raise ConfigError(field, value, "a finite number > 0" + (f" and <= {most}" if most is not None else ""))


def _hostname(field: str, value: object) -> None:
    if not isinstance(value, str) or not (re.fullmatch(r"[^\s/:\[\]]+", value) or _is_ipv6(value)):
        raise ConfigError(field, value, "a host name or an IP address, nothing else")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return False
    return True


def _pem_file(field: str, file: object) -> None:
    if not isinstance(file, str | Path) or not Path(file).is_file():
        raise ConfigError(field, file, "the path of a PEM file that exists")
    if b"-----BEGIN" not in Path(file).read_bytes():
        raise ConfigError(field, str(file), "a file in PEM form (it has a line '-----BEGIN ...-----')")
