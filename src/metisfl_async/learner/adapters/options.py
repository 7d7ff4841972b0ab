"""What a task's `config` says, checked: what is not understood is refused, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from metisfl_async.core.checks import integer, number, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json

__all__ = [
    "KEYS",
    "check_schedule",
    "check_shapes",
    "checked_mu",
    "generator_of",
    "learning_rate_of",
    "max_grad_norm_of",
    "only",
    "whole_number",
]

#: of `train_params` that all adapters know
KEYS = frozenset({"batch_size", "epochs", "num_local_updates", "learning_rate", "round_number", "metrics", "metadata"})

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


def check_schedule(learning_rate: object) -> None:
    if learning_rate is not None and not callable(learning_rate):
        allowed = "None, or a function from the round's number to a rate; a rate for all rounds is the optimizer's own"
        raise ConfigError("learning_rate", learning_rate, allowed)


def learning_rate_of(config: Mapping[str, Json], schedule: Callable[[int], float] | None = None) -> float | None:
    """Give the rate that this task asks for, or that a schedule has for its round; None leaves the learner's own."""
    if "learning_rate" in config:
        return _positive("config['learning_rate']", config["learning_rate"])
    if schedule is None:
        return None
    number = whole_number(config, "round_number", 1)
    return _positive(f"learning_rate({number})", schedule(number))


def max_grad_norm_of(config: Mapping[str, Json]) -> float | None:
    """Give the norm to which this task wants gradients shortened; None leaves them."""
    return _positive("config['max_grad_norm']", config["max_grad_norm"]) if "max_grad_norm" in config else None


def _positive(field: str, value: object) -> float:
    positive(field, value)
    assert isinstance(value, int | float | np.number)
    return float(value)


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
