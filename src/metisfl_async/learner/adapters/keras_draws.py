"""What Keras draws while it trains, drawn with a generator of one's own: the order of examples, and dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from metisfl_async.learner.adapters.examples import first_leaf, leaves, mapped

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

__all__ = ["can_be_gathered", "keras_batches", "reseed_dropout"]


def can_be_gathered(data: Any) -> bool:
    """Whether `keras_batches` can draw from data: NumPy's arrays, and Keras runs on TensorFlow."""
    import keras

    return keras.backend.backend() == "tensorflow" and all(isinstance(leaf, np.ndarray) for leaf in leaves(data))


def keras_batches(data: tuple[Any, Any, Any], batch_size: int, rng: np.random.Generator) -> tf.data.Dataset:
    """Make batches of (x, y, sample_weight), each epoch in a new order; what is None is left out."""
    import keras
    import tensorflow as tf

    count = len(first_leaf(data))
    float_dtype = keras.config.floatx()

    def tensor(array: np.ndarray[Any, Any]) -> tf.Tensor:
        return tf.convert_to_tensor(array.astype(float_dtype) if array.dtype == np.float64 else array)

    parts = tuple(_form(mapped(part, tensor)) for part in data if part is not None)
    rows = tf.data.Dataset.range(count).shuffle(count, seed=int(rng.integers(2**31)), reshuffle_each_iteration=True)
    return rows.batch(batch_size).map(lambda chosen: tf.nest.map_structure(lambda part: tf.gather(part, chosen), parts))


def _form(part: Any) -> Any:
    """Make tuples of lists, which a Dataset would take for arrays."""
    if isinstance(part, list):
        return tuple(map(_form, part))
    return {name: _form(each) for name, each in part.items()} if isinstance(part, dict) else part


def reseed_dropout(model: keras.Model, rng: np.random.Generator) -> None:
    """Have a model's own generators begin anew."""
    for variable in model.variables:
        if variable.path.endswith("seed_generator_state"):
            variable.assign([int(rng.integers(2**31)), 0])
