"""What a task's `config` says, checked: what is not understood is refused, never ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from metisfl_async.core.checks import integer, number, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json

__all__ = ["check_shapes", "checked_mu", "generator_of", "learning_rate_of", "only", "whole_number"]

Shapes = list[tuple[int, ...]]


def only(config: Mapping[str, Json], allowed: Collection[str]) -> None:
    """Refuse a key that the learner does not know."""
    for name, value in config.items():
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            allowed_text = f"only the keys {known}; take out others in a subclass that uses them"
            raise ConfigError(f"config[{name!r}]", value, allowed_text)


def whole_number(config: Mapping[str, Json], name: str, default: int) -> int:
    value = config.get(name, default)
    integer(f"config[{name!r}]", value, 1)
    assert isinstance(value, int)
    return value


def learning_rate_of(config: Mapping[str, Json]) -> float | None:
    """Give the rate that this task asks for; None leaves the learner's own."""
    if "learning_rate" not in config:
        return None
    rate = config["learning_rate"]
    positive("config['learning_rate']", rate)
    assert isinstance(rate, int | float)
    return float(rate)


def checked_mu(mu: object) -> float:
    """Check FedProx's factor; 0 turns it off."""
    number("proximal_mu", mu, 0)
    assert isinstance(mu, int | float)
    return float(mu)


def generator_of(own: np.random.Generator | None, task_seed: int | None) -> np.random.Generator:
    """Give what a task draws with: the learner's own, or one that begins anew with the seed of the task."""
    return np.random.default_rng(task_seed) if own is None else own


def check_shapes(given: Shapes, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the weights of another model; `expected` has the shapes of the one here by their names, in their order."""
    same = "as in the model here; do all learners build the same one?"
    if len(given) != len(expected):
        raise ConfigError("the global weights", f"{len(given)} tensors", f"{len(expected)}, {same}")
    for shape, (name, own) in zip(given, expected.items(), strict=True):
        if shape != own:
            raise ConfigError(f"tensor {name!r} of the global weights", list(shape), f"{list(own)}, {same}")
