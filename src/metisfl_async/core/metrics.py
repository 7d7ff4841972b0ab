"""What learners report beside their weights: numbers by name, and JSON-like facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from metisfl_async.core.errors import ConfigError, brief

__all__ = [
    "NUM_EXAMPLES",
    "Json",
    "Metrics",
    "checked_json",
    "checked_metrics",
    "requested_names",
    "unwrapped",
    "weighted_means",
]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Metrics: TypeAlias = dict[str, float]

NUM_EXAMPLES = "num_examples"  #: in what `evaluate` says: how many examples it measured; it weighs the rest
MAX_DEPTH = 8
MAX_ARRAY = 16 * 1024  #: values in an array that becomes a list

_PLAIN = frozenset({float, str, bool, type(None)})  # of these, every value is good


def checked_metrics(metrics: object, field: str) -> Metrics:
    """Take a mapping from names to numbers, NumPy's among them; `ConfigError` names what does not fit."""
    if not isinstance(metrics, Mapping):
        raise ConfigError(field, metrics, "a dict from names to numbers")
    checked: Metrics = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise ConfigError(f"a key of {field}", name, "a string")
        number = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        if not isinstance(number, Real):
            raise ConfigError(f"{field}[{brief(name)}]", value, "one number")
        try:
            checked[name] = float(number)
        except OverflowError as error:
            raise ConfigError(f"{field}[{brief(name)}]", value, "a number that fits a float64") from error
    return checked


def checked_json(value: object, field: str, *, depth: int = 0) -> Json:
    """Take anything JSON-like, NumPy scalars and arrays among it; `ConfigError` names what does not fit."""
    value = unwrapped(value, field)
    if isinstance(value, int) and not _is_64_bit(value):
        raise ConfigError(field, value, "an integer of 64 bits")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"a key of {field}", key, "a string")
        if depth == MAX_DEPTH and value:
            raise _too_deep(field)
        return {
            key: item if _is_plain(item) else checked_json(item, f"{field}[{key[:100]!r}]", depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        if depth == MAX_DEPTH and value:
            raise _too_deep(field)
        return [
            item if _is_plain(item) else checked_json(item, f"{field}[{index}]", depth=depth + 1)
            for index, item in enumerate(value)
        ]
    raise ConfigError(field, value, "None, a bool, a number, a string, or a list or dict of those")


def unwrapped(value: object, field: str) -> Any:
    """Make numbers and lists of scalars, arrays and tensors, of whichever library; give anything else as it is."""
    if isinstance(value, type) or not hasattr(value, "__array__"):
        return value
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) > MAX_ARRAY:
        raise ConfigError(field, f"a {type(value).__name__} of shape {shape}", f"at most {MAX_ARRAY} values")
    try:
        return value.tolist() if hasattr(value, "tolist") else np.asarray(value).tolist()
    except Exception as error:  # what another library's objects raise is theirs to choose
        allowed = f"one of which NumPy can make an array: {error}"
        raise ConfigError(field, f"a {type(value).__name__}", allowed) from error


def _is_plain(value: object) -> bool:
    """Say whether there is nothing to look at; lists have such values by the thousand."""
    return (kind := type(value)) in _PLAIN or (kind is int and _is_64_bit(value))


def _is_64_bit(value: Any) -> bool:
    return bool(-(2**63) <= value < 2**64)


def _too_deep(field: str) -> ConfigError:
    return ConfigError(field, "...", f"at most {MAX_DEPTH} levels of nesting")


def requested_names(params: Mapping[str, Json], key: str, field: str) -> list[str]:
    """Read which names a task's result must have: what ``params[key]`` lists, nothing if it is not there."""
    names = params.get(key, [])
    if isinstance(names, list):
        checked = [name for name in names if isinstance(name, str)]
        if len(checked) == len(names):
            return checked
    raise ConfigError(f"{field}[{key!r}]", names, "a list of names, which the result must have")


def weighted_means(reports: Iterable[tuple[float, Metrics]]) -> Metrics:
    """Average each metric over those who report it.

    Parameters
    ----------
    reports : iterable of (weight, metrics)
        Weights are positive; dimensionless.

    Returns
    -------
    dict
        ``sum(s_k * m_k) / sum(s_k)`` for each name, over the learners k that report it.
    """
    terms: dict[str, list[tuple[float, float]]] = {}
    for weight, metrics in reports:
        for name, value in metrics.items():
            terms.setdefault(name, []).append((weight, value))
    return {
        name: _sum([weight * value for weight, value in pairs]) / _sum([weight for weight, _ in pairs])
        for name, pairs in sorted(terms.items())
    }


def _sum(values: list[float]) -> float:
    """Add without regard to order; where that overflows or meets both infinities, give inf or nan as IEEE 754 does."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return sum(values)
