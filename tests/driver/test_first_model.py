"""Training starts from arrays, named or not, from a model, or from a file, with its names and marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.torch
import torch
from digits import parts
from federations import Adds
from keras_models import keras_model
from torch_models import torch_learner, torch_model

from metisfl_async import ConfigError, Controller, ControllerConfig, DriverSession, FederationResult, TerminationSignals
from metisfl_async.adapters import KerasLearner
from metisfl_async.core.model import Model
from metisfl_async.driver.first_model import first_model

pytestmark = pytest.mark.slow

NAMES = list(torch_model().state_dict())
BUFFERS = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


def warm() -> torch.nn.Module:
    model = torch_model()
    model[0].bias.data.fill_(3.0)
    model[1].running_mean.fill_(4.0)
    return model


def check(model: Model, names: list[str], untrained: list[str]) -> None:
    assert model.manifest.names == names
    assert [names[place] for place in model.manifest.untrained] == untrained
    values = dict(zip(names, model.arrays(), strict=True))
    assert (values["0.bias"] == 3).all()
    assert (values["1.running_mean"] == 4).all()


async def result_of(**options: Any) -> FederationResult:
    signals = TerminationSignals(federation_rounds=1)
    return await DriverSession(Controller(), [torch_learner(model=torch_model)], signals, **options).run()


async def test_all_forms_of_a_torch_model_are_taken_with_names_and_marks(tmp_path: Path) -> None:
    model, live = warm(), [torch_learner()]
    safetensors.torch.save_file(model.state_dict(), tmp_path / "foreign.safetensors")
    (await result_of(initial_weights=model)).save_model(tmp_path / "ours.safetensors")
    arrays = [tensor.numpy() for tensor in model.state_dict().values()]
    for given in (model, model.state_dict(), arrays, tmp_path / "foreign.safetensors"):
        check(first_model(given, live), NAMES, BUFFERS)
    check(first_model(model, []), NAMES, BUFFERS)
    check(first_model(model.state_dict(), []), NAMES, [])
    ours = first_model(str(tmp_path / "ours.safetensors"), [])
    assert [ours.manifest.names[place] for place in ours.manifest.untrained] == BUFFERS
    assert ours.manifest.names == NAMES
    assert first_model(arrays, [torch_learner(model=torch_model)]).manifest.names[0] == "0"  # it is not made yet
    part = [torch_learner(federated=["0.*"])]
    assert first_model(model, part).manifest.names == ["0.weight", "0.bias"]


@pytest.mark.parametrize("kind", ["a model", "a state_dict", "another order", "a file"])
async def test_training_starts_there(kind: str, tmp_path: Path) -> None:
    model = warm()
    state = model.state_dict()
    given: dict[str, Any] = {"a model": model, "a state_dict": state, "a file": tmp_path / "m.safetensors"}
    given["another order"] = {name: state[name] for name in reversed(state)}
    safetensors.torch.save_file(state, tmp_path / "m.safetensors")
    result = await result_of(initial_weights=given[kind])
    assert result.first_weights == "given"
    assert not result.rounds[0].learners["learner-0"].failures
    assert sorted(result.tensor_names) == sorted(NAMES)
    bias = result.named_arrays()["0.bias"]
    assert (abs(bias - 3) < 1).all()
    fresh = torch_model()
    result.load_into(fresh)
    assert (fresh.state_dict()["0.bias"].numpy() == bias).all()


async def test_a_keras_model_is_taken() -> None:
    model = keras_model()
    model.layers[0].bias.assign(np.full(32, 3.0))
    signals = TerminationSignals(federation_rounds=1)
    learners = [KerasLearner(keras_model, *parts()[0])]
    result = await DriverSession(Controller(), learners, signals, initial_weights=model).run()
    assert (abs(result.named_arrays()["dense/bias"] - 3) < 1).all()
    assert result.untrained_names == ["batch_normalization/moving_mean", "batch_normalization/moving_variance"]
    assert isinstance(model, keras.Model)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    for given, match in [
        (7, "initial_weights is 'int'; allowed: a list of arrays, a state_dict"),
        ([], "a non-empty list"),
        (tmp_path / "text", "weights is .*; allowed: a safetensors file"),
        (
            {"0.weight": np.zeros((32, 64), np.float32)},
            "without 0.bias, 1.weight, .*all tensors of the",
        ),
    ]:
        with pytest.raises(ConfigError, match=match):
            first_model(given, [torch_learner()])
    assert first_model([np.zeros(1)], [Adds(1)]).manifest.names == ["0"]


async def test_the_best_model_goes_into_a_model_and_another_federation(tmp_path: Path) -> None:
    config = ControllerConfig(best_metric="loss", best_mode="min")
    signals = TerminationSignals(federation_rounds=2)
    learners = [torch_learner(model=torch_model)]
    result = await DriverSession(Controller(controller_config=config), learners, signals).run()
    result.save_model(tmp_path / "best.safetensors", best=True)
    fresh, again = torch_model(), first_model(tmp_path / "best.safetensors", [])
    result.load_into(fresh, best=True)
    for name, array in zip(again.manifest.names, again.arrays(), strict=True):
        np.testing.assert_array_equal(fresh.state_dict()[name].numpy(), array)
        np.testing.assert_array_equal(result.named_arrays(best=True)[name], array)
    assert (await result_of(initial_weights=tmp_path / "best.safetensors")).first_weights == "given"
