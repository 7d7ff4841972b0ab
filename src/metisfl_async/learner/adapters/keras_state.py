"""What a Keras learner remembers from task to task, as bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from metisfl_async.learner.adapters.keras_parts import array_of_variable, keras_variables

if TYPE_CHECKING:
    import keras

__all__ = ["restore_keras", "state_of_keras"]


def state_of_keras(model: keras.Model, federated: Collection[str], rng: np.random.Generator | None) -> bytes:
    """Pack the weights that are not the federation's, the optimizer's variables, and the state of a generator."""
    arrays = {name: _plain(variable) for name, variable in _variables(model, federated).items()}
    drawn = json.dumps(None if rng is None else rng.bit_generator.state)
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, drawn=np.array(drawn), **arrays)
    return packed.getvalue()


def restore_keras(
    state: bytes, model: keras.Model, federated: Collection[str], rng: np.random.Generator | None
) -> None:
    """Take up what was packed."""
    model.optimizer.build(model.trainable_variables)
    with np.load(io.BytesIO(state), allow_pickle=False) as found:
        for name, variable in _variables(model, federated).items():
            variable.assign(found[name])
        drawn = json.loads(str(found["drawn"]))
    if rng is not None and drawn is not None:
        rng.bit_generator.state = drawn


def _variables(model: keras.Model, federated: Collection[str]) -> Mapping[str, Any]:
    own = {f"own/{name}": value for name, value in keras_variables(model).items() if name not in federated}
    return own | {f"optimizer/{index}": value for index, value in enumerate(model.optimizer.variables)}


def _plain(variable: Any) -> np.ndarray[Any, Any]:
    """Give an array of NumPy's own dtypes: all that bfloat16 holds, float32 does."""
    array = array_of_variable(variable)
    return array if array.dtype.isbuiltin else array.astype(np.float32)
