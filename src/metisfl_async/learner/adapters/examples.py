"""Nested data: arrays in tuples, lists and dicts, of which each has one row for an example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from metisfl_async.core.errors import ConfigError

__all__ = ["count_in_batches", "count_rows", "first_leaf", "leaves", "mapped"]


def mapped(data: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to each leaf, and keep the form of the rest."""
    if data is None or not _is_nest(data):
        return None if data is None else function(data)
    if isinstance(data, Mapping):
        return {name: mapped(part, function) for name, part in data.items()}
    parts = [mapped(part, function) for part in data]
    return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)


def leaves(data: Any) -> Iterator[Any]:
    """Go through the leaves in their order."""
    if data is None:
        return
    if not _is_nest(data):
        yield data
        return
    for part in data.values() if isinstance(data, Mapping) else data:
        yield from leaves(part)


def _is_nest(data: object) -> bool:
    """Whether it has parts; a list may also be an array itself, of numbers or of rows of them."""
    if isinstance(data, list):
        return bool(data) and (hasattr(data[0], "shape") or isinstance(data[0], Mapping | tuple))
    return isinstance(data, Mapping | tuple)


def first_leaf(data: Any) -> Any:
    """Give the one whose length is the number of examples, however many inputs and outputs there are."""
    return next(leaves(data), ())


def count_rows(field: str, data: Any) -> int:
    """Count examples.

    Raises
    ------
    ConfigError
        If there are none, or not as many in each leaf.
    """
    lengths = [len(leaf) for leaf in leaves(data)]
    if not lengths or lengths[0] == 0 or len(set(lengths)) > 1:
        allowed = "arrays that are all as long, one row for an example, and at least one"
        raise ConfigError(f"the lengths of {field}", lengths, allowed)
    return lengths[0]


def count_in_batches(batches: Any) -> int:
    """Count the examples of data that comes in batches, by going through it once."""
    if hasattr(batches, "__getitem__"):  # Keras' PyDataset, which as an iterator has no end
        return sum(len(first_leaf(batches[number])) for number in range(len(batches)))
    return sum(len(first_leaf(batch)) for batch in batches)
