"""A part of a model is the federation's and the rest its learner's; tensors have their names all the way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from digits import accuracy_of, parts
from federations import Adds, session_of
from keras_models import keras_model
from torch_models import torch_learner, torch_model

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    Simulation,
    TerminationSignals,
)
from metisfl_async.adapters import KerasLearner, load_into

pytestmark = pytest.mark.slow


class LowRank(torch.nn.Module):  # type: ignore[misc]
    """A frozen layer with an adapter, as LoRA has it."""

    def __init__(self, layer: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.lora_a = torch.nn.Parameter(torch.randn(rank, layer.in_features, generator=torch.Generator()) * 0.1)
        self.lora_b = torch.nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x @ self.lora_a.T @ self.lora_b.T


def named_model() -> torch.nn.Module:
    layers = dict(zip(("body", "bn", "relu", "head"), torch_model(), strict=True))
    return torch.nn.Sequential(OrderedDict(layers))


def low_rank_model() -> torch.nn.Module:
    model = named_model()
    model.body = LowRank(model.body, 4)
    model.head = LowRank(model.head, 4)
    return model


CONFIG = ControllerConfig(train_params={"batch_size": 16, "epochs": 3})


async def test_adapters_of_low_rank_are_the_federations_and_the_frozen_base_stays() -> None:
    learners = [torch_learner(n, model=low_rank_model(), federated="trainable") for n in range(3)]
    base = learners[0].model.state_dict()["body.layer.weight"].clone()
    accuracy, result = await accuracy_of(session_of(learners, rounds=4, config=CONFIG))
    assert accuracy > 0.9
    assert result.tensor_names == ["body.lora_a", "body.lora_b", "bn.weight", "bn.bias", "head.lora_a", "head.lora_b"]
    assert all((learner.model.state_dict()["body.layer.weight"] == base).all() for learner in learners)
    states = [learner.model.state_dict() for learner in learners]
    assert (states[0]["body.lora_a"] == states[1]["body.lora_a"]).all()  # at the end, all have the final model
    assert (states[0]["bn.running_mean"] != states[1]["bn.running_mean"]).any()  # their own


async def test_adapters_of_low_rank_learn_with_the_mean_of_what_they_do() -> None:
    learners = [torch_learner(n, model=low_rank_model(), federated="trainable") for n in range(3)]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 3}, aggregation_rule="LoRAStacked")
    accuracy, result = await accuracy_of(session_of(learners, rounds=4, config=config))
    assert accuracy > 0.9
    a = result.named_arrays()["body.lora_a"]
    np.testing.assert_allclose(a @ a.T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    ("federated", "is_own"),
    [
        (["body.*", "bn.*"], "head."),  # FedPer
        (lambda name: not name.startswith("bn."), "bn."),  # FedBN
    ],
    ids=["FedPer", "FedBN"],
)
async def test_what_is_a_learners_own_never_leaves_it(federated: Any, is_own: str) -> None:
    learners = [torch_learner(n, model=named_model(), federated=federated) for n in range(3)]
    accuracy, result = await accuracy_of(session_of(learners, rounds=4, config=CONFIG))
    assert accuracy > 0.9
    assert not any(name.startswith(is_own) for name in result.tensor_names)
    states = [learner.model.state_dict() for learner in learners]
    for name in states[0]:
        assert (states[0][name] == states[1][name]).all() != name.startswith(is_own) or "batches" in name


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch_learner(model=named_model(), federated=["body.*", "bn.*"]),
        lambda: KerasLearner(keras_model, *parts()[0], federated=["dense/*"]),
    ],
    ids=["torch", "Keras"],
)
async def test_what_a_learners_own_model_reaches_after_training_is_in_the_record(make: Callable[[], Learner]) -> None:
    learner: Any = make()
    weights, metrics, _ = learner.train(learner.get_weights(), {"batch_size": 16, "epochs": 1})
    measured = learner.evaluate(weights, {})  # with its own part as it is
    measured.pop("num_examples")
    assert measured.keys() == {"loss", "accuracy"}
    assert metrics.items() >= {f"personal/{name}": value for name, value in measured.items()}.items()
    (record,) = (await session_of([learner], rounds=1, config=CONFIG).run()).rounds
    names = {"loss", "accuracy", "personal/loss", "personal/accuracy"}
    assert record.learners["learner-0"].train_metrics.keys() == record.train_metrics.keys() == names
    assert record.evaluation_metrics.keys() == {"loss", "accuracy"}


@pytest.mark.parametrize("federated", ["all", "trainable"])
async def test_without_a_trained_part_of_its_own_there_is_one_number(federated: str) -> None:
    learners = [torch_learner(n, model=named_model(), federated=federated) for n in range(2)]
    (record,) = (await session_of(learners, rounds=1, config=CONFIG).run()).rounds
    assert record.train_metrics.keys() == {"loss", "accuracy"}


async def test_files_lineage_and_errors_have_the_models_own_names(tmp_path: Path) -> None:
    learner = torch_learner()
    async with Controller(controller_config=CONFIG) as controller:
        session = DriverSession(controller, [learner], TerminationSignals(federation_rounds=1))
        result = await session.run()
        (model,) = await controller.lineage()
    names = list(torch_model().state_dict())
    assert result.tensor_names == [spec.name for spec in model.manifest.tensors] == names
    result.save_model(tmp_path / "model.safetensors")
    fresh = [torch_model() for _ in range(3)]
    fresh[0].load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    result.load_into(fresh[1])
    load_into(fresh[2], tmp_path / "model.safetensors")
    for model in fresh:
        assert all((model.state_dict()[name] == array).all() for name, array in learner.model.state_dict().items())


async def test_other_parts_of_one_model_are_refused_by_name() -> None:
    learners = [torch_learner(0, model=named_model(), federated=[part]) for part in ("body.bias", "bn.bias")]
    result = await session_of(learners, rounds=1).run()
    failures = [f for part in result.rounds[0].learners.values() for f in part.failures]
    assert {failure.type for failure in failures} == {"ConfigError"}
    assert "the names of the global weights is 'only here: " in failures[0].message


def test_a_choice_that_cannot_be_is_refused_where_it_is_made() -> None:
    for federated, said in [
        ("body.*", "'all', 'trainable', a list of names"),
        ([], "'all', 'trainable', a list of names"),
        (["body.*", "neck.*"], "'neck.*'; allowed: what is in the model: body.weight, body.bias, bn.weight"),
        (lambda name: name == "x", "at least one tensor of the model"),
    ]:
        with pytest.raises(ConfigError, match=r"^federated is ") as caught:
            torch_learner(model=named_model(), federated=federated)
        assert said in str(caught.value)


def test_weights_are_loaded_by_name_or_not_at_all() -> None:
    model = named_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_into(model, {"head.bias": np.ones(10, np.float32)})
    assert (model.head.bias == 1).all()
    assert (model.body.weight == before["body.weight"]).all()
    for weights, field in [
        ({"head.bias": np.zeros(10), "neck": np.zeros(1)}, "weights"),
        ({"head.bias": np.zeros(9)}, "tensor 'head.bias'"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_into(model, weights)
        assert caught.value.field == field
    assert (model.head.bias == 1).all()
    numbered = {str(n): np.full(value.shape, n) for n, value in enumerate(before.values())}
    load_into(model, numbered)  # of a learner that names nothing
    assert (model.bn.running_var == 5).all()
    with pytest.raises(ConfigError, match=r"model is 'dict'; allowed: a torch.nn.Module, or a keras.Model"):
        load_into({}, {})
    bits = np.ones((1, 2), ml_dtypes.bfloat16)
    bits.flags.writeable = False
    linear = torch.nn.Linear(2, 1, bias=False)
    load_into(linear, {"weight": bits})
    assert (linear.weight == 1).all()


async def test_a_learner_of_ones_own_names_its_weights_or_they_are_numbered() -> None:
    class Named(Adds):
        def weight_names(self) -> list[str]:
            return ["weights", "number"]

    named = await session_of([Named(1)], rounds=1).run()
    assert list(named.named_arrays()) == ["weights", "number"]
    assert list((await session_of([Adds(1)], rounds=1).run()).named_arrays()) == ["0", "1"]
    given = DriverSession(
        Controller(), [Named(1)], TerminationSignals(federation_rounds=1), initial_weights=Adds(1).get_weights()
    )
    assert (await given.run()).model_version == 1  # numbers are no names: places decide


def personal_torch(number: int) -> Learner:
    momentum = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    return torch_learner(number, model=named_model, optimizer=momentum, federated=["body.*"])


def personal_keras(number: int) -> Learner:
    def model() -> Any:
        made = keras_model()
        made.compile(optimizer=keras.optimizers.Adam(0.01), loss=made.loss, metrics=["accuracy"])
        return made

    return KerasLearner(model, *parts()[number], federated=["dense/*"], seed=number)


@pytest.mark.parametrize("make", [personal_torch, personal_keras])
async def test_simulated_learners_keep_layers_and_momentum_of_their_own(make: Callable[[int], Learner]) -> None:
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 1})
    live = await session_of([make(0), make(1)], 2, config=config).run()
    with ThreadPoolExecutor(1) as thread:
        simulation = Simulation(make, learners=2, executor=thread, keep_state=True)
        signals = TerminationSignals(federation_rounds=2)
        simulated = await DriverSession(Controller(controller_config=config), simulation, signals).run()
    for ours, theirs in zip(simulated.rounds, live.rounds, strict=True):
        assert ours.train_metrics == pytest.approx(theirs.train_metrics, rel=1e-5)
        assert ours.evaluation_metrics == pytest.approx(theirs.evaluation_metrics, rel=1e-5)
    for mine, its in zip(simulated.final_model or [], live.final_model or [], strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-6)
