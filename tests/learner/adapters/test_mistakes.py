"""What a constructor or a session can know is wrong is said there, and not in the first round."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from digits import accuracy_of, parts
from federations import Adds, session_of
from keras_models import keras_model
from sklearn.linear_model import SGDClassifier
from torch.utils.data import TensorDataset
from torch_models import torch_learner, torch_model

from metisfl_async import ConfigError, Controller, ControllerConfig, DriverSession, Learner, TerminationSignals
from metisfl_async.adapters import KerasLearner, SklearnLearner, TorchLearner
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.alone import alone_with
from metisfl_async.learner.learner import Config, TrainResult

pytestmark = pytest.mark.slow


def learners_of(kind: str, model: Any) -> list[Learner]:
    if kind == "torch":
        return [torch_learner(n, model=model) for n in range(2)]
    if kind == "keras":
        return [KerasLearner(model, *parts()[n]) for n in range(2)]
    return [SklearnLearner(model, *parts()[n], classes=range(10)) for n in range(2)]


MODELS: dict[str, Callable[[], Any]] = {"torch": torch_model, "keras": keras_model, "sklearn": SGDClassifier}


@pytest.mark.parametrize("kind", MODELS)
def test_one_model_for_two_learners_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="the model of learner-0 is the model of learner-1'; allowed: a model"):
        session_of(learners_of(kind, MODELS[kind]()))
    learners = dict(zip("ab", learners_of(kind, MODELS[kind]()), strict=True))
    with pytest.raises(ConfigError, match="the model of a is the model of b"):
        DriverSession(Controller(), learners, TerminationSignals(federation_rounds=1))


@pytest.mark.parametrize("kind", ["torch", "keras"])
def test_one_model_is_used_by_one_learner_at_a_time_in_the_whole_process(kind: str) -> None:
    model = MODELS[kind]()
    first, second = learners_of(kind, lambda: model)  # a session cannot see it
    assert isinstance(first, KerasLearner | TorchLearner)
    weights = first.get_weights()
    with alone_with(model, first):
        first.evaluate(weights, {})
        for use in (
            lambda: second.train(weights, {}),
            lambda: second.evaluate(weights, {}),
            lambda: second.set_weights(weights),
        ):
            with pytest.raises(ConfigError, match="a model for each learner; another one is using this one now"):
                use()
    second.evaluate(weights, {})


class WithBase(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base, self.head = base, torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.base(x).relu())


async def test_learners_of_a_process_may_share_one_frozen_base_and_nothing_else() -> None:
    torch.manual_seed(1)
    base = torch.nn.Linear(64, 32)
    models = [WithBase(base) for _ in range(2)]
    for federated in ("all", ["head.*"]):  # it is trained
        with pytest.raises(
            ConfigError, match=r"tensor 'base.weight' of learner-0 is tensor 'base.weight' of learner-1"
        ):
            session_of([torch_learner(n, model=model, federated=federated) for n, model in enumerate(models)])
    base.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"tensor 'base.weight'"):  # each would write the global weights into it
        session_of([torch_learner(n, model=model) for n, model in enumerate(models)])
    learners = [torch_learner(n, model=model, federated="trainable") for n, model in enumerate(models)]
    before = copy.deepcopy(base.state_dict())
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 5, "learning_rate": 0.5})
    reached, result = await accuracy_of(session_of(learners, rounds=3, config=config))
    assert reached > 0.6  # by chance: 0.1; the base is random
    assert result.tensor_names == ["head.weight", "head.bias"]
    assert all((base.state_dict()[name] == value).all() for name, value in before.items())
    shared_statistics = torch.nn.Sequential(base, torch.nn.BatchNorm1d(32)).requires_grad_(False)
    with pytest.raises(ConfigError, match=r"tensor 'base.1.running_mean' of learner-0 is tensor"):
        session_of([torch_learner(n, model=WithBase(shared_statistics), federated="trainable") for n in range(2)])


def test_keras_models_may_share_frozen_layers() -> None:
    import keras

    base = keras.layers.Dense(32, activation="relu")
    base.trainable = False

    def with_base() -> Any:
        model = keras.Sequential([keras.Input((64,)), base, keras.layers.Dense(10)])
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        return model

    session_of([KerasLearner(with_base(), *parts()[n], federated="trainable") for n in range(2)])
    with pytest.raises(ConfigError, match="weight 'dense/kernel' of learner-0 is weight 'dense/kernel' of learner-1"):
        session_of([KerasLearner(with_base(), *parts()[n]) for n in range(2)])


class Stateless(Adds):
    keeps_state = False

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        return parameters, {"pid": float(os.getpid())}


class Elsewhere(Executor):
    """A pool of processes of another kind than Python's own."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self.pool.submit(fn, *args, **kwargs)


async def test_a_pool_of_processes_that_would_lose_what_a_learner_remembers_is_refused() -> None:
    signals = TerminationSignals(federation_rounds=1)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        session = DriverSession(Controller(), [torch_learner()], signals, worker=pool)
        with pytest.raises(ConfigError, match="worker is 'a pool of processes'; allowed: 'process', where the learner"):
            await session.run()
        result = await DriverSession(Controller(), [Stateless(1)], signals, worker=pool).run()
        assert result.rounds[0].train_metrics["pid"] != os.getpid()
        session = DriverSession(Controller(), [Adds(1)], signals, worker=Elsewhere(pool), join_timeout_secs=60)
        with pytest.raises(Exception, match="worker is 'a pool of processes'"):
            await session.run()


def test_torch_is_told_at_once_what_cannot_train() -> None:
    (x, y), _ = parts()[0]
    wide = x.astype(np.float64)
    sgd = partial(torch.optim.SGD, lr=0.1)

    def refused(field: str, match: str, **options: Any) -> None:
        with pytest.raises(ConfigError, match=match) as caught:
            torch_learner(**options)
        assert caught.value.field == field

    refused("optimizer", "'SGD'; allowed: a function from parameters", optimizer=sgd(torch_model().parameters()))
    refused("optimizer", "'str'; allowed: a function from parameters", optimizer="sgd")
    refused("optimizer", "a function that gives a list", optimizer=list)
    refused("the dtype of train_data", r"torch.float32, as the model's weights are: x.astype", train_data=(wide, y))
    refused("the dtype of test_data", r"torch.float32", test_data=({"input": wide}, y))
    tensors = TensorDataset(torch.from_numpy(wide), torch.from_numpy(y))
    refused("the dtype of train_data", r"torch.float32", train_data=tensors)
    refused("model", "'list'; allowed: a torch.nn.Module", model=[])
    refused("loss", "'mse'; allowed: a function", loss="mse")
    refused("accuracy", "0.9; allowed: a function", metrics={"accuracy": 0.9})
    torch_learner(model=torch_model().double(), train_data=(wide, y), test_data=(wide, y))
    torch_learner(train_data=(wide, y), loss=None, step=lambda model, batch: model(batch[0].float()).mean())


def test_keras_is_told_at_once_what_cannot_train() -> None:
    import keras

    for model in (keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)]), keras.Sequential()):
        with pytest.raises(ConfigError, match="a model that is built and compiled"):
            KerasLearner(model, *parts()[0])
    with pytest.raises(ConfigError, match="federated is 'head"):
        KerasLearner(keras_model(), *parts()[0], federated=["head/*"])
