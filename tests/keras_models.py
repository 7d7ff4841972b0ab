"""Small Keras models for digits. They are here so that a spawned process can import what makes them."""

from __future__ import annotations

from typing import Any

import keras
from digits import parts

from metisfl_async.adapters import KerasLearner


def keras_model(learning_rate: float = 0.1, **options: Any) -> Any:
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model


def keras_learner(number: int = 0, model: Any = keras_model) -> KerasLearner:
    train, test = parts()[number]
    return KerasLearner(model, train, test)
