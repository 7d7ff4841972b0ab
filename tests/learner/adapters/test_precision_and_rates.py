"""Dtypes stay what they are or are refused by name; rates follow the round; gradients have a norm at most."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from digits import accuracy_of, digits, parts
from federations import Adds, session_of
from sklearn.linear_model import SGDRegressor
from torch_models import torch_learner, torch_model

from metisfl_async import ConfigError, ControllerConfig
from metisfl_async.adapters import KerasLearner, SklearnLearner

pytestmark = pytest.mark.slow

(X, Y), _ = digits()


def keras_linear(**options: Any) -> Any:
    layer = keras.layers.Dense(10, kernel_initializer="zeros", activation="softmax", **options)
    model = keras.Sequential([keras.Input((64,)), layer])
    optimizer = keras.optimizers.SGD(0.5)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def torch_linear() -> torch.nn.Module:
    model = torch.nn.Linear(64, 10)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


CONFIG = ControllerConfig(train_params={"batch_size": 16, "epochs": 3})


async def test_bfloat16_travels_as_it_is() -> None:
    def halves(part: Any) -> Any:
        return torch.from_numpy(part[0]).to(torch.bfloat16), part[1]

    learners = [
        torch_learner(
            n,
            model=torch_linear().to(torch.bfloat16),
            train_data=halves(parts()[n][0]),
            test_data=halves(parts()[n][1]),
        )
        for n in range(2)
    ]
    reached, result = await accuracy_of(session_of(learners, rounds=2, over_grpc=True, config=CONFIG))
    assert reached > 0.8
    assert {array.dtype.name for array in result.final_model or []} == {"bfloat16"}


@pytest.mark.parametrize(("policy", "weights"), [("bfloat16", "bfloat16"), ("mixed_bfloat16", "float32")])
async def test_mixed_precision_of_keras_stays_what_it_is(policy: str, weights: str) -> None:
    learners = [KerasLearner(keras_linear(dtype=policy), *parts()[n]) for n in range(2)]
    reached, result = await accuracy_of(session_of(learners, rounds=2, config=CONFIG))
    assert reached > 0.8
    assert {array.dtype.name for array in result.final_model or []} == {weights}


class WithState(torch.nn.Linear):  # type: ignore[misc]
    def get_extra_state(self) -> Any:
        return {"scale": 1}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def with_buffer(value: torch.Tensor) -> torch.nn.Module:
    model = torch_model()
    model.register_buffer("odd", value)
    return model


@pytest.mark.parametrize(
    ("model", "name", "what"),
    [
        (lambda: WithState(64, 10), "_extra_state", "a dict"),
        (lambda: with_buffer(torch.zeros(2).to(torch.float8_e4m3fn)), "odd", "torch.float8_e4m3fn"),
        (lambda: with_buffer(torch.zeros(2, dtype=torch.complex64)), "odd", "torch.complex64"),
        (lambda: with_buffer(torch.eye(3).to_sparse()), "odd", "sparse torch.float32"),
        (
            lambda: with_buffer(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
            "odd",
            "quantised torch.qint8",
        ),
    ],
    ids=["extra state", "float8", "complex", "sparse", "quantised"],
)
@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning", "ignore:.*:UserWarning")
def test_what_has_no_form_on_the_wire_is_named_with_what_to_do(model: Any, name: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        torch_learner(model=model())
    assert (caught.value.field, caught.value.value) == (f"tensor {name!r}", what)
    assert f"federated=lambda name: name != {name!r}" in str(caught.value)
    torch_learner(model=model(), federated=lambda each: each != name).get_weights()


class WithComplex(keras.layers.Layer):  # type: ignore[misc]
    def build(self, shape: Any) -> None:
        self.add_weight(name="odd", shape=(2,), dtype="complex64", initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        return x


def test_a_dtype_of_keras_that_does_not_travel_is_named() -> None:
    model = keras.Sequential([keras.Input((64,)), WithComplex(), keras.layers.Dense(10)])
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ConfigError, match="tensor 'with_complex/odd' is 'complex64'; allowed: a dense tensor of"):
        KerasLearner(model, *parts()[0])


def steps_of(learner: Any, config: dict[str, Any]) -> float:
    """How far one step on all examples goes, from zeros."""
    start = learner.get_weights()
    weights, *_ = learner.train(start, {"batch_size": len(X), "num_local_updates": 1, **config})
    norm = float(np.sqrt(sum(((w - s).astype(np.float64) ** 2).sum() for w, s in zip(weights, start, strict=True))))
    learner.set_weights(start)
    return norm


@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_gradients_are_shortened_to_a_norm_for_one_task(kind: str) -> None:
    learner: Any = (
        torch_learner(model=torch_linear(), train_data=(X, Y))
        if kind == "torch"
        else KerasLearner(keras_linear(), (X, Y), (X, Y))
    )
    full = steps_of(learner, {"learning_rate": 1.0})
    assert full > 0.1
    assert steps_of(learner, {"learning_rate": 1.0, "max_grad_norm": 0.05}) == pytest.approx(0.05, rel=1e-3)
    assert steps_of(learner, {"learning_rate": 1.0, "max_grad_norm": 10.0}) == pytest.approx(full, rel=1e-5)
    assert steps_of(learner, {"learning_rate": 1.0}) == pytest.approx(full, rel=1e-5)
    with pytest.raises(ConfigError, match=r"config\['max_grad_norm'\]"):
        steps_of(learner, {"max_grad_norm": 0})


def test_a_norm_beside_an_optimizers_own_is_refused() -> None:
    model = keras_linear()
    model.compile(optimizer=keras.optimizers.SGD(0.1, clipnorm=1.0), loss="sparse_categorical_crossentropy")
    with pytest.raises(ConfigError, match="the optimizer has a clipnorm of its own"):
        steps_of(KerasLearner(model, (X, Y), (X, Y)), {"max_grad_norm": 1.0})


@pytest.mark.parametrize("kind", ["torch", "keras", "sklearn"])
def test_a_rate_follows_the_round(kind: str) -> None:
    def halving(number: int) -> float:
        return float(0.5**number)

    learner: Any
    if kind == "torch":
        learner = torch_learner(model=torch_linear(), train_data=(X, Y), learning_rate=halving)
    elif kind == "keras":
        learner = KerasLearner(keras_linear(), (X, Y), (X, Y), learning_rate=halving)
    else:
        y = (Y % 2).astype(np.float64)
        learner = SklearnLearner(SGDRegressor(learning_rate="constant", alpha=0.0), (X[:1], y[:1]), (X, y))
        learner._schedule = halving
    first, third = steps_of(learner, {"round_number": 1}), steps_of(learner, {"round_number": 3})
    assert first == pytest.approx(4 * third, rel=1e-3)
    assert steps_of(learner, {"round_number": 1, "learning_rate": 0.125}) == pytest.approx(third, rel=1e-3)
    if kind == "torch":
        with pytest.raises(ConfigError, match=r"learning_rate is 0\.1; allowed: None, or a function"):
            torch_learner(learning_rate=0.1)
        with pytest.raises(ConfigError, match=r"learning_rate\(2\) is -1"):
            steps_of(torch_learner(learning_rate=lambda number: -1), {"round_number": 2})


async def test_every_task_says_its_round() -> None:
    learner = Adds(1)
    await session_of([learner], rounds=3).run()
    assert [config["round_number"] for config in learner.configs] == [1, 2, 3]


def test_a_model_is_moved_to_a_device() -> None:
    learner = torch_learner(device="cpu")
    assert next(learner.model.parameters()).device.type == "cpu"
    meta = torch_learner(device="meta")  # the only other one that every machine has
    assert {parameter.device.type for parameter in meta.model.parameters()} == {"meta"}
    for device in ("gpu", 1.5):
        with pytest.raises(ConfigError, match="device is "):
            torch_learner(device=device)
