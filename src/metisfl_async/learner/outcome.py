"""A learner's methods called with models and their results checked; these functions run in the worker."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import ConfigError, brief
from metisfl_async.core.metrics import Json, Metrics, requested_names
from metisfl_async.core.model import Bytes, Manifest, Model, is_alone
from metisfl_async.core.strategies.aggregation.contributors import Contributor
from metisfl_async.core.texts import plain
from metisfl_async.learner.reported import evaluated, trained

__all__ = ["Measured", "Trained", "checked_evaluation", "order_of", "packed_result", "packed_weights", "text_of"]

COLOURS = re.compile(r"\x1b\[[0-9;]*m")  #: and bold letters, which Keras puts into its errors

T = TypeVar("T", bound=dict[str, Json] | Metrics)


@dataclass(frozen=True, slots=True)
class Trained:
    """What goes back to the controller."""

    model: Model
    metrics: Metrics = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  #: what else was said, and why it cannot be used
    sum_of: Manifest | None = None  #: if the model is a weighted sum, in float64: what the models in it are like
    codec: str = RAW  #: how a sum travels


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluation says."""

    metrics: Metrics
    left_out: dict[str, str] = field(default_factory=dict)  #: what else was said, and why it cannot be used
    contributors: Mapping[str, Contributor] = field(default_factory=dict)  #: of a relay: who measured what instead


def packed_weights(
    weights: object,
    source: str = "get_weights()",
    like: Manifest | None = None,
    names: Sequence[str] | None = None,
    untrained: Collection[str] = (),
    *,
    room: Bytes | None = None,
) -> Model:
    """Copy arrays into one buffer, under these names; without them, under those of `like` if they are as many.

    Arrays that are in `room`, each in its place, stay there; others are copied there, if nothing else views it.
    """
    if not isinstance(weights, list | tuple) or not weights:
        raise ConfigError(source, _kind(weights), "a non-empty list of NumPy arrays")
    for index, array in enumerate(weights):
        if not isinstance(array, np.ndarray | np.generic):
            raise ConfigError(f"{source}[{index}]", _kind(array), "a NumPy array")
    if like is not None and like.fits(weights):
        if room is not None and (model := Model(like, room)).consists_of(weights):
            return model
        return Model.filled(like, weights, again=room if room is not None and is_alone(room) else None)
    if like is not None and len(like.tensors) == len(weights):
        names = like.names
    return Model.from_arrays(weights, names, untrained=untrained)


def packed_result(
    result: object,
    trained_from: Manifest,
    num_training_examples: int | None,
    config: Mapping[str, Json],
    room: Bytes | None = None,
) -> Trained:
    """Check what `train` returned, also against what its task asks for, and bring its arrays into one buffer."""
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        allowed = "(parameters, metrics) or (parameters, metrics, metadata)"
        raise ConfigError("what train() returns", _kind(result), allowed)
    model = packed_weights(result[0], "the model that train() returns", trained_from, room=room)
    if model.manifest is not trained_from:
        _check_like(model.manifest, trained_from)
    said = trained(result[1], result[2] if len(result) == 3 else {}, num_training_examples)
    _check_names(said.names, config, "metrics", "the metrics of train()")
    _check_names(said.metadata, config, "metadata", "the metadata of train()")
    return Trained(model, _plain(said.metrics), _plain(said.metadata), said.left_out)


def _check_like(trained: Manifest, passed_in: Manifest) -> None:
    """Refuse arrays that are not like those that were passed in."""
    if (count := len(trained.tensors)) != (wanted := len(passed_in.tensors)):
        raise ConfigError("the number of arrays that train() returns", count, f"{wanted}, as many as were passed in")
    for index, (given, like) in enumerate(zip(trained.tensors, passed_in.tensors, strict=True)):
        if given != like:
            name = "" if like.name == str(index) else f" ({brief(like.name)})"
            kind, allowed = (f"{each.dtype}{list(each.shape)}" for each in (given, like))
            raise ConfigError(f"array {index}{name} that train() returns", kind, f"{allowed}, as it was passed in")


def checked_evaluation(metrics: object, config: Mapping[str, Json]) -> Measured:
    """Check what `evaluate` returned, also against what its task asks for; it travels in one message."""
    if not isinstance(metrics, Mapping):
        raise ConfigError("what evaluate() returns", _kind(metrics), "a dict from names to numbers")
    said = evaluated(metrics, "evaluate()")
    _check_names(said.names, config, "metrics", "evaluate()")
    return Measured(_plain(said.metrics), said.left_out)


def order_of(own: Sequence[str] | None, manifest: Manifest) -> list[int] | None:
    """Say where a learner's tensors are among the global weights, by their names; None if in the same order.

    Weights without names have places only.

    Raises
    ------
    ConfigError
        If they have other names.
    """
    if own is None:
        return None
    theirs = manifest.names
    if theirs == list(own) or theirs == [str(place) for place in range(len(theirs))]:
        return None
    missing, strange = ([name for name in a if name not in set(b)] for a, b in ((own, theirs), (theirs, own)))
    if not missing and not strange:
        places = {name: place for place, name in enumerate(theirs)}
        return [places[name] for name in own]
    parts = (("only here", missing), ("only there", strange))
    what = "; ".join(f"{where}: {', '.join(names[:8])}" for where, names in parts if names)
    allowed = "those of the model here; do all learners build the same one, and federate the same part of it?"
    raise ConfigError("the names of the global weights", what, allowed)


def _check_names(reported: Collection[str], config: Mapping[str, Json], key: str, source: str) -> None:
    """See whether everything is there that the task's parameters ask for."""
    missing = [name for name in requested_names(config, key, "config") if name not in reported]
    if missing:
        raise ConfigError(source, sorted(reported), f"also {', '.join(missing)}, which config[{key!r}] asks for")


def _plain(reported: T) -> T:
    """Leave no subclass of str, int or float: the process that this goes to may not have that class."""
    plain: T = json.loads(json.dumps(reported))
    return plain


def _kind(value: object) -> str:
    """Name what was given without printing what may be megabytes."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}" if value is not None else "None"


def text_of(error: Exception) -> str:
    """Say what a user's error says, as the controller keeps it."""
    try:
        text = str(error)
    except Exception as of_its_own:  # noqa: BLE001 - it is the user's code
        text = f"its text cannot be had: str() raises {type(of_its_own).__name__}"
    return plain(COLOURS.sub("", text))
