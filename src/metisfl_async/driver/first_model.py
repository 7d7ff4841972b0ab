"""What users give as the weights that training starts from, made a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array, Model
from metisfl_async.driver.weights import is_keras_model, is_torch_module, read
from metisfl_async.learner.adapters.keras_parts import array_of_variable, keras_variables
from metisfl_async.learner.adapters.torch_parts import array_of, trained_names
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.outcome import packed_weights

__all__ = ["first_model"]

ALLOWED = "a list of arrays, a state_dict or another mapping of names to them, a model, or a safetensors file's path"


def first_model(weights: Any, learners: Iterable[Learner]) -> Model:
    """Take arrays, named arrays, a model of Keras or PyTorch, or a safetensors file.

    Where a live learner can say so now, its names are given to arrays without names, and of those with names the ones
    that are the federation's are taken; and it says what is not trained, where the weights do not.

    Raises
    ------
    ConfigError
        If they are none of those, or a live learner has tensors that are not among them.
    """
    known = next((learner for learner in learners if learner.is_made and learner.weight_names() is not None), None)
    names = None if known is None else list(known.weight_names() or ())
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        if known is None or names is None or len(names) != len(weights):
            return packed_weights(weights, "initial_weights")
        return packed_weights(weights, "initial_weights", names=names, untrained=known.untrained_names())
    named, untrained = _named(weights)
    if known is not None and names is not None:
        if missing := [name for name in names if name not in named]:
            what = f"without {', '.join(missing[:8])}"
            raise ConfigError("initial_weights", what, "all tensors of the learners' model")
        named = {name: named[name] for name in names}
        untrained = known.untrained_names() if untrained is None else untrained
    marks = [name for name in untrained or () if name in named]
    return packed_weights(list(named.values()), "initial_weights", names=list(named), untrained=marks)


def _named(weights: Any) -> tuple[dict[str, Array], Iterable[str] | None]:
    """Give arrays by their names, and which of them are not trained, if that is known."""
    if is_torch_module(weights):
        trained = trained_names(weights)
        named = {name: array_of(value) for name, value in weights.state_dict().items() if hasattr(value, "layout")}
        return named, [name for name in named if name not in trained]
    if is_keras_model(weights):
        variables = keras_variables(weights)
        is_trained = set(map(id, weights.trainable_weights))
        named = {name: array_of_variable(variable) for name, variable in variables.items()}
        return named, [name for name, variable in variables.items() if id(variable) not in is_trained]
    if isinstance(weights, str | Path):
        return read(weights)
    if isinstance(weights, Mapping):
        return {str(name): array_of(x) if hasattr(x, "layout") else np.asarray(x) for name, x in weights.items()}, None
    raise ConfigError("initial_weights", type(weights).__name__, ALLOWED)
