"""What a learner says beside its weights, made into numbers by name and JSON.

A number on the side never costs a learner its training: what cannot be used is left out, and why is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from metisfl_async.core.errors import ConfigError, brief
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics, checked_json, unwrapped

__all__ = ["HISTORY", "Reported", "evaluated", "trained"]

HISTORY = "history"  #: in the metadata: lists with a value for each epoch, as Keras gives them
MAX_VECTOR = 100  #: numbers in a metric, such as the score of each class
MAX_METRICS = 4_000  #: numbers by name
MAX_HISTORY_BYTES = 12 * 1024  #: of all lists together; of longer ones, the latest values are kept
MAX_FACTS_BYTES = 60 * 1024  #: of metrics and metadata together; a header has room for a little more
MAX_EVALUATION_BYTES = 120 * 1024  #: of an evaluation's metrics; so has a message
MAX_LISTS = 1_000  #: and dicts, likewise
NUMBER_BYTES = 9


@dataclass(slots=True)
class Reported:
    """What can be used, and what cannot."""

    metrics: Metrics = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  #: of the metrics as the learner calls them
    left_out: dict[str, str] = field(default_factory=dict)  #: what is left out, and why

    def leave_out(self, error: ConfigError) -> None:
        self.left_out.setdefault(error.field, f"{brief(error.value)}; allowed: {error.allowed}")

    def add(self, name: object, value: object, source: str) -> None:
        """Take one metric: a number, or a vector as "name_0", "name_1", ..."""
        place = f"{source}[{brief(name)}]"
        try:
            name = _named(name, source)
            numbers = _numbers(unwrapped(value, place), value, place)
            named = {f"{name}_{index}": number for index, number in enumerate(numbers)} if len(numbers) > 1 else {}
            new = {key: number for key, number in (named or {name: numbers[0]}).items() if key not in self.metrics}
            if len(self.metrics) + len(new) > MAX_METRICS:
                raise ConfigError("some metrics", name, f"at most {MAX_METRICS} metrics")
        except ConfigError as error:
            self.leave_out(error)
        else:
            self.metrics |= new
            self.names |= {name, *new}


def evaluated(metrics: Mapping[Any, object], source: str) -> Reported:
    """Take what `evaluate` returned."""
    said = Reported()
    for name, value in metrics.items():
        said.add(name, value, source)
    count = said.metrics.get(NUM_EXAMPLES, 0.0)
    if not 0 <= count < float("inf"):
        said.leave_out(ConfigError(f"{source}[{NUM_EXAMPLES!r}]", said.metrics.pop(NUM_EXAMPLES), "a number >= 0"))
    _make_fit(said, source, MAX_EVALUATION_BYTES)
    return said


def trained(metrics: object, metadata: object, num_training_examples: int | None) -> Reported:
    """Take what `train` returned beside the weights.

    Of a list with a value for each epoch, the last one is the metric, and the list is in the metadata under `HISTORY`.
    None and strings go there too, under their own names.
    """
    said, source, place = Reported(), "the metrics of train()", "the metadata of train()"
    facts: Mapping[Any, object] = {}
    if isinstance(metadata, Mapping):
        facts = metadata
    else:
        said.leave_out(ConfigError(place, metadata, "a dict"))
    for key, fact in facts.items():
        _add_fact(said, key, fact, place)
    if not isinstance(metrics, Mapping):
        said.leave_out(ConfigError(source, metrics, "a dict from names to numbers"))
        metrics = {}
    lists: dict[str, list[Any] | tuple[Any, ...]] = {}
    for name, value in metrics.items():
        if isinstance(value, list | tuple) and value and isinstance(name, str):
            lists[name] = value
            said.add(name, value[-1], source)
        elif (value is None or isinstance(value, str)) and name not in said.metadata:
            _add_fact(said, name, value, source)
        else:
            said.add(name, value, source)
    key = "num_training_examples"
    if num_training_examples is not None and key not in said.metadata and key not in said.metrics:
        _add_fact(said, key, num_training_examples, "Learner")
    if lists and HISTORY not in said.metadata:
        said.metadata[HISTORY] = _history(said, lists, source)
    _make_fit(said, place, MAX_FACTS_BYTES)
    return said


def _add_fact(said: Reported, key: object, fact: object, source: str) -> None:
    place = f"{source}[{brief(key)}]"
    try:
        checked = checked_json(fact, place)
        _cost(checked)
        said.metadata[_named(key, source)] = checked
    except ConfigError as error:
        said.leave_out(error)
    except UnicodeEncodeError:
        said.leave_out(ConfigError(place, fact, "characters that UTF-8 has"))


def _named(name: object, source: str) -> str:
    """Refuse a name that no message can carry."""
    if not isinstance(name, str) or name.encode(errors="ignore").decode() != name:
        raise ConfigError(f"a key of {source}", name, "a string, of characters that UTF-8 has")
    return name


def _history(said: Reported, lists: Mapping[str, list[Any] | tuple[Any, ...]], source: str) -> dict[str, Json]:
    """Keep the lists whole; of long ones the latest values."""
    history: dict[str, Json] = {}
    room = MAX_HISTORY_BYTES // len(lists)
    for name, values in lists.items():
        kept: list[Json] = []
        size = len(name.encode())
        try:
            for epoch in range(len(values) - 1, -1, -1):
                value = checked_json(values[epoch], f"{source}[{brief(name)}][{epoch}]")
                size += _cost(value)[0]
                if size > room:
                    said.left_out.setdefault(
                        f"{source}[{brief(name)}]", f"the first {epoch + 1} values of {len(values)}"
                    )
                    break
                kept.append(value)
        except ConfigError as error:
            said.leave_out(error)
        else:
            history[name] = kept[::-1]
    return history


def _numbers(plain: Any, value: object, place: str) -> list[float]:
    """Make one number, or those of a vector."""
    while isinstance(plain, list) and len(plain) == 1:  # of shape (1,), (1, 1), ...
        plain = plain[0]
    values = plain if isinstance(plain, list | tuple) else [plain]
    allowed = f"a number, or a vector of at most {MAX_VECTOR}"
    if not 0 < len(values) <= MAX_VECTOR:
        raise ConfigError(place, f"{len(values)} values", allowed)
    numbers = []
    for each in values:
        one = unwrapped(each, place)
        if isinstance(one, str | bytes) or not (isinstance(one, Real) or hasattr(type(one), "__float__")):
            raise ConfigError(place, value, allowed)
        try:
            numbers.append(float(one))
        except Exception as error:  # an overflow, or whatever a user's type raises
            raise ConfigError(place, value, f"a number that fits a float64: {type(error).__name__}") from error
    return numbers


def _make_fit(said: Reported, source: str, most: int) -> None:
    """Leave out the largest of the metadata, and then the last of the metrics, until there is room for the rest."""
    why = f"there is room for {most} bytes in all"
    costs = {key: _cost(fact, len(key.encode())) for key, fact in said.metadata.items()}
    size = sum(2 * NUMBER_BYTES + len(name.encode()) for name in said.metrics)
    while costs and (
        size + sum(cost for cost, _ in costs.values()) > most or sum(lists for _, lists in costs.values()) > MAX_LISTS
    ):
        largest = max(costs, key=costs.__getitem__)
        del costs[largest], said.metadata[largest]
        said.left_out[f"{source}[{brief(largest)}]"] = why
    while size > most:
        name, _ = said.metrics.popitem()
        size -= 2 * NUMBER_BYTES + len(name.encode())
        said.left_out["some metrics"] = f"{brief(name)} and others: {why}"


def _cost(value: Json, name_bytes: int = 0) -> tuple[int, int]:
    """Say how many bytes a value takes at most, and how many lists and dicts are in it."""
    size, lists = NUMBER_BYTES + name_bytes, 0
    if isinstance(value, str):
        size += len(value.encode())
    elif isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else (("", item) for item in value)
        lists += 1
        for key, item in items:
            more, inner = _cost(item, len(key.encode()) + NUMBER_BYTES if isinstance(value, dict) else 0)
            size, lists = size + more, lists + inner
    return size, lists
