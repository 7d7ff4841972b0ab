"""What a Keras learner remembers from task to task, as bytes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from metisfl_async.learner.adapters.keras_parts import array_of_variable, keras_variables
from metisfl_async.learner.adapters.packing import packed, unpacked

if TYPE_CHECKING:
    import keras

__all__ = ["restore_keras", "state_of_keras"]


def state_of_keras(model: keras.Model, federated: Collection[str], rng: np.random.Generator | None) -> bytes:
    """Pack the weights that are not the federation's, the optimizer's variables, and where a generator is."""
    variables = _variables(model, federated)
    return packed({name: array_of_variable(variable) for name, variable in variables.items()}, rng)


def restore_keras(
    state: bytes, model: keras.Model, federated: Collection[str], rng: np.random.Generator | None
) -> None:
    """Take up what was packed."""
    model.optimizer.build(model.trainable_variables)
    found = unpacked(state, rng)
    for name, variable in _variables(model, federated).items():
        variable.assign(found[name])


def _variables(model: keras.Model, federated: Collection[str]) -> dict[str, Any]:
    own = {f"own/{name}": value for name, value in keras_variables(model).items() if name not in federated}
    return own | {f"optimizer/{index}": value for index, value in enumerate(model.optimizer.variables)}
