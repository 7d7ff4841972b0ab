"""A federation's weights put into a model again, by their names."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.keras_parts import keras_variables
from metisfl_async.learner.adapters.torch_parts import tensor_of

__all__ = ["is_keras_model", "is_torch_module", "load_into", "packed", "read"]


def packed(weights: Mapping[str, Array], untrained: Sequence[str] = ()) -> bytes:
    """Make a safetensors file, which says in its metadata which tensors are not trained, and in what order all are."""
    in_order = {name: np.asarray(array, order="C") for name, array in weights.items()}  # it takes memory as it lies
    return save(in_order, {"names": json.dumps(list(weights)), "untrained": json.dumps(list(untrained))})


def read(path: str | Path) -> tuple[dict[str, Array], list[str] | None]:
    """Read a safetensors file, in its model's order, and which tensors are not trained; None if it does not say.

    Raises
    ------
    ConfigError
        If it is none.
    """
    try:
        data = Path(path).read_bytes()
        arrays = load(data)
        facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        as_stored = sorted(arrays, key=int) if all(name.isdecimal() for name in arrays) else list(arrays)
        names = json.loads(facts.get("names", "null")) or as_stored
        untrained = json.loads(facts.get("untrained", "null"))
        if sorted(names) != sorted(arrays) or not set(untrained or ()) <= set(arrays):
            raise ValueError("its metadata name other tensors than it has")
        return {name: arrays[name] for name in names}, untrained
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError("weights", str(path), f"a safetensors file ({error})") from error


def load_into(model: Any, weights: str | Path | Mapping[str, Array]) -> None:
    """Put weights into a PyTorch module or a Keras model, by their names; tensors that are not named stay.

    ::

        load_into(model, "model.safetensors")

    Parameters
    ----------
    model : torch.nn.Module or keras.Model
        Of Keras, one that is built. Layers of Keras that were not given a name are found by their place.
    weights : path of a safetensors file, or mapping of names to arrays
        What `FederationResult.save_model` wrote, or its ``named_arrays()``.

    Raises
    ------
    ConfigError
        If the model has no tensor of a name, or one of another shape. Nothing is changed then.
    """
    if not isinstance(weights, Mapping):
        weights, _ = read(weights)
    if is_torch_module(model):
        found = _found(weights, {name: value for name, value in model.state_dict().items() if hasattr(value, "shape")})
        model.load_state_dict({name: tensor_of(array) for name, array in found.items()}, strict=False)
    elif is_keras_model(model):
        variables = keras_variables(model)
        for name, array in _found(weights, variables).items():
            variables[name].assign(array)
    else:
        raise ConfigError("model", type(model).__name__, "a torch.nn.Module, or a keras.Model")


def is_torch_module(model: object) -> bool:
    """Whether it is one, without an import of PyTorch: where there is one, it has been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def is_keras_model(model: object) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def _found(weights: Mapping[str, Array], own: Mapping[str, Any]) -> dict[str, Array]:
    """Give each of the weights under the name of the model's own tensor; those without names have its order."""
    found = dict(weights)
    if found.keys() == {str(place) for place in range(len(own))}:
        found = {name: found[str(place)] for place, name in enumerate(own)}
    for name, array in found.items():
        if name not in own:
            raise ConfigError("weights", name, f"names of the model's tensors: {', '.join(list(own)[:20])}")
        if array.shape != tuple(own[name].shape):
            raise ConfigError(f"tensor {name!r}", list(array.shape), f"{list(own[name].shape)}, as in the model")
    return found
