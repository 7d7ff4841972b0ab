"""Reads an environment file: which section makes what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metisfl_async.core.config import ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import nearest, snake
from metisfl_async.environment import vocabulary
from metisfl_async.environment.document import load
from metisfl_async.environment.endpoint import Endpoint
from metisfl_async.environment.entries import LearnerEntry, SessionOptions
from metisfl_async.environment.gathering import Gathering
from metisfl_async.environment.node import Node
from metisfl_async.environment.parties import read_controller, read_learners

__all__ = ["read"]

SECTIONS = ["controller_config", "termination_signals", "model_store_config", "controller", "learners", "session"]
CPP_SECTIONS = ["communication_protocol", "global_model_config", "local_model_config"]  #: of MetisFL's C++ version


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModelConfig:
    """What MetisFL's C++ version tells learners about training."""

    batch_size: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("epochs", self.epochs)):
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(name, value, "an integer >= 1")


def read(file: Path) -> dict[str, Any]:
    """Give the parts of a `FederationEnvironment`, by name."""
    root = _unwrapped(load(file))

    def absent(name: str) -> Node:
        return Node(file, name, root.line, None)

    training = Gathering(ControllerConfig, absent("controller_config"))
    local = Gathering(LocalModelConfig, absent("local_model_config"))
    store = Gathering(ModelStoreConfig, absent("model_store_config"))
    signals = Gathering(TerminationSignals, absent("termination_signals"))
    options = Gathering(SessionOptions, absent("session"))
    endpoint = Gathering(Endpoint, absent("controller"))
    entries: list[LearnerEntry] = []
    for name, (key, section) in _sections(root).items():
        match name:
            case "controller_config" | "global_model_config":
                training.take(section, vocabulary.TRAINING)
            case "communication_protocol":
                training.take(section, vocabulary.COMMUNICATION)
            case "local_model_config":
                local.take(section, vocabulary.LOCAL_MODEL)
            case "model_store_config":
                store.take(section)
            case "termination_signals":
                signals.take(section)
            case "session":
                options.take(section)
            case "controller":
                endpoint = read_controller(section)
            case "learners":
                entries = read_learners(section)
            case _ if name in vocabulary.ENCRYPTION_SECTIONS:
                _refuse_encryption(section)
            case _ if name in vocabulary.ENVIRONMENT.refused:
                raise root.key_error(key, f"leave it out: {vocabulary.ENVIRONMENT.refused[name]}", section.line)
            case _:
                raise root.key_error(key, nearest(key, SECTIONS + CPP_SECTIONS), section.line)
    config = training.make(**_train_params(training, local))
    return {
        "controller_config": config,
        "termination_signals": _checked(signals, config),
        "model_store_config": store.make(**_lineage_length(store)),
        "session_options": options.make(),
        "controller_endpoint": Endpoint.made_of(endpoint),
        "learners": entries,
    }


def _checked(signals: Gathering[TerminationSignals], config: ControllerConfig) -> TerminationSignals:
    """See whether the signals fit the scheduler."""
    made = signals.make()
    try:
        config.check_signals(made)
    except ConfigError as error:
        raise signals.located(error) from None
    return made


def _unwrapped(root: Node) -> Node:
    """Step into `FederationEnvironment:`, below which MetisFL's C++ version has everything."""
    sections = root.mapping()
    first = next(iter(sections), "")
    return sections[first] if len(sections) == 1 and snake(first) == "federation_environment" else root


def _sections(root: Node) -> dict[str, tuple[str, Node]]:
    """Give each section under its name here, with its key in the file."""
    sections: dict[str, tuple[str, Node]] = {}
    for key, section in root.mapping().items():
        name = vocabulary.ENVIRONMENT.aliases.get(snake(key), snake(key))
        if name in sections:
            other, where = sections[name]
            raise root.key_error(key, f"one of the two; {other} in line {where.line} is the same", section.line)
        sections[name] = key, section
    return sections


# --- MetisFL's ways to say it ----------------------------------------------------------------------------------------


def _train_params(training: Gathering[ControllerConfig], local: Gathering[LocalModelConfig]) -> dict[str, object]:
    """Give learners what LocalModelConfig says as their `train_params`."""
    config = local.make()
    given = {name: getattr(config, name) for name in ("batch_size", "epochs") if name in local.found}
    if not given:
        return {}
    node = training.found.get("train_params")
    own = node.mapping() if node is not None else {}
    for name in given:
        if name in own:
            other = local.found[name]
            raise own[name].error(own[name].plain(), f"one of the two; {other.path} in line {other.line} is the same")
    return {"train_params": given | {key: value.plain() for key, value in own.items()}}


def _lineage_length(store: Gathering[ModelStoreConfig]) -> dict[str, object]:
    """Keep everything where MetisFL's policy says so, and nobody says how much."""
    policy = store.found.get("eviction_policy")
    keeps_all = policy is not None and policy.value == "NoEviction" and "lineage_length" not in store.found
    return {"lineage_length": 0} if keeps_all else {}


def _refuse_encryption(section: Node) -> None:
    """Accept only what says that there is none."""
    names = {"name": section} if isinstance(section.value, str) else section.mapping()
    for key, node in names.items():
        is_none = node.value is None or (isinstance(node.value, str) and node.value.lower() in ("none", "absent"))
        if snake(key) not in ("name", "he_scheme") or not is_none:
            allowed = "leave it out: updates are not encrypted for the controller; TLS protects them on their way"
            raise section.key_error(key, allowed, node.line)
