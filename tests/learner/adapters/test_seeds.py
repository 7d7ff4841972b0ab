"""With the session's seed and nothing else, a run repeats: adapters draw with what follows from it."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
import torch
from digits import parts
from sklearn.linear_model import SGDClassifier
from torch.utils.data import DataLoader, TensorDataset
from torch_models import torch_learner, torch_model, with_dropout

from metisfl_async import Controller, ControllerConfig, DriverSession, Learner, ServerParams, TerminationSignals
from metisfl_async.adapters import KerasLearner, SklearnLearner
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.keras_draws import keras_batches

pytestmark = pytest.mark.slow


def plain() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def keras_with_dropout() -> Any:
    layers = keras.layers.Dense(32, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Dense(10)
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    return model


def loaded(part: Any) -> Any:
    return DataLoader(TensorDataset(*map(torch.from_numpy, part)), batch_size=32, shuffle=True)


def learners_of(kind: str) -> list[Learner]:
    data = parts()[:2]
    if kind == "keras":
        return [KerasLearner(keras_with_dropout, *part) for part in data]
    if kind == "sklearn":
        return [SklearnLearner(SGDClassifier(loss="log_loss"), *part, classes=range(10)) for part in data]
    options: dict[str, Any] = {"model": with_dropout if kind == "a process" else plain, "seed": None}
    if kind == "a loader":
        return [torch_learner(train_data=loaded(train), test_data=test, **options) for train, test in data]
    return [torch_learner(n, **options) for n in range(2)]


async def final(kind: str, seed: int = 1990, **options: Any) -> list[Array]:
    config = ControllerConfig(train_params={"epochs": 2} if kind == "a loader" else {"batch_size": 16})
    controller = Controller(ServerParams() if kind == "over gRPC" else None, config)
    worker: Any = "process" if kind == "a process" else "thread"
    signals = TerminationSignals(federation_rounds=2)
    result = await DriverSession(controller, learners_of(kind), signals, seed=seed, worker=worker, **options).run()
    assert result.final_model is not None
    return result.final_model


@pytest.mark.parametrize("kind", ["torch", "over gRPC", "a loader", "a process", "keras", "sklearn"])
async def test_a_run_repeats_with_its_seed(kind: str) -> None:
    before = random.getstate(), torch.get_rng_state()
    first, second = await final(kind), await final(kind)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    if kind in ("torch", "sklearn"):
        other = await final(kind, seed=7)
        assert np.abs(first[0] - other[0]).max() > 1e-3
    assert random.getstate() == before[0]
    assert (torch.get_rng_state() == before[1]).all()


def test_a_seed_of_the_learners_own_wins_and_tasks_differ() -> None:
    results = []
    for task_seed in (1, 1, 2):
        learner = torch_learner(model=torch_model(), seed=None)
        learner.task_seed = task_seed
        results.append(learner.train(learner.get_weights(), {})[0][0])
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()
    own = []
    for task_seed in (1, 2):
        learner = torch_learner(model=plain, seed=5)
        learner.task_seed = task_seed
        own.append(learner.train(learner.get_weights(), {})[0][0])
    assert (own[0] == own[1]).all()


def test_an_order_of_examples_is_new_in_each_epoch_and_whole() -> None:
    x, y = np.arange(10.0).reshape(-1, 1), np.arange(10)
    batches = keras_batches(([x, {"twice": x * 2}], y, None), 4, np.random.default_rng(1))
    epochs = [list(batches.as_numpy_iterator()) for _ in range(2)]
    orders = [np.concatenate([labels for _, labels in epoch]) for epoch in epochs]
    assert [len(labels) for _, labels in epochs[0]] == [4, 4, 2]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert (orders[0] != orders[1]).any()
    for (values, named), labels in epochs[0]:
        assert values.dtype == np.float32
        assert (values[:, 0] == labels).all()
        assert (named["twice"][:, 0] == 2 * labels).all()
