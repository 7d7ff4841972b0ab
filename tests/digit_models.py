"""Small models for digits. They are here so that a spawned process can import what makes them."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import torch
from digits import parts

from metisfl_async.adapters import KerasLearner, TorchLearner


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


def torch_model() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        )


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def torch_learner(number: int = 0, **options: Any) -> TorchLearner:
    train, test = parts()[number]
    arguments = {"model": torch_model(), "train_data": train, "test_data": test, "metrics": {"accuracy": accuracy}}
    arguments |= {"loss": torch.nn.CrossEntropyLoss(), "optimizer": partial(torch.optim.SGD, lr=0.1), "seed": number}
    return TorchLearner(**(arguments | options))
