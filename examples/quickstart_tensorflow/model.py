"""The model that is trained; every process builds the same one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: errors only
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same numbers on every run

import keras
import tensorflow as tf
from numpy.typing import NDArray

tf.config.threading.set_intra_op_parallelism_threads(1)  # learners run side by side; one core is enough for each


def build_model(image_shape: tuple[int, ...], seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def set_weights(model: Any, parameters: list[NDArray[Any]]) -> None:
    """Take over global weights; if they are those of another model, say so."""
    given, expected = [p.shape for p in parameters], [w.shape for w in model.get_weights()]
    if given != expected:
        raise ValueError(
            f"the global model has the shapes {given}, the one here {expected}: "
            "do all learners and the driver use the same --dataset?"
        )
    model.set_weights(parameters)


def stop_when(is_cancelled: Callable[[], bool]) -> Any:
    """Make a callback for `fit` that ends it early, when nobody waits for its result any more."""

    def look(batch: int, logs: object) -> None:
        callback.model.stop_training = is_cancelled()  # fit looks at it after every batch

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    return callback
