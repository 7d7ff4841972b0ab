"""Data and models of many forms train: dicts, several inputs and outputs, sample weights, loaders, one's own step."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from digits import accuracy_of, check_metadata, digits, parts
from federations import session_of
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch_models import accuracy, torch_learner, torch_model

from metisfl_async import ConfigError, ControllerConfig

pytestmark = pytest.mark.slow

(X, Y), (X_TEST, Y_TEST) = digits()
LOSS = torch.nn.CrossEntropyLoss()


class TwoInputs(torch.nn.Module):  # type: ignore[misc]
    """Takes the halves of an image, and tells its class and whether that is odd."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.digit, self.odd = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10), torch.nn.Linear(32, 2)

    def forward(self, upper: torch.Tensor, lower: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(torch.cat([upper, lower], 1)).relu()
        return self.digit(features), self.odd(features)


def halves(x: Any, y: Any) -> Any:
    return (x[:, :32], x[:, 32:]), (y, y % 2)


def both(outputs: Any, targets: Any) -> torch.Tensor:
    return LOSS(outputs[0], targets[0]) + LOSS(outputs[1], targets[1])


async def test_two_inputs_and_two_outputs_are_as_many_examples_as_one() -> None:
    learners = [
        torch_learner(
            model=TwoInputs(),
            train_data=halves(*train),
            test_data=halves(*test),
            loss=both,
            metrics={"accuracy": lambda outputs, targets: accuracy(outputs[0], targets[0])},
        )
        for train, test in parts()[:2]
    ]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 4})
    reached, result = await accuracy_of(session_of(learners, rounds=3, config=config))
    assert reached > 0.85
    assert result.rounds[0].learners["learner-0"].weight == 479


class LikeHuggingFaces(torch.nn.Module):  # type: ignore[misc]
    """Takes keywords, and gives loss and logits in an object, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch_model()

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        logits = self.classifier(pixels)
        return SimpleNamespace(loss=None if labels is None else LOSS(logits, labels), logits=logits)


class OfDicts(Dataset[Any]):  # type: ignore[misc]
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"pixels": self.x[number], "labels": self.y[number]}


@pytest.mark.parametrize("loss", [None, LOSS], ids=["its own loss", "a loss"])
@pytest.mark.parametrize("kind", [dict, OfDicts], ids=["a dict", "a data set of dicts"])
async def test_dicts_are_keywords_and_outputs_have_a_loss_and_logits(kind: Any, loss: Any) -> None:
    learners = [
        torch_learner(
            n,
            model=LikeHuggingFaces(),
            train_data=kind(pixels=parts()[n][0][0], labels=parts()[n][0][1]) if kind is dict else kind(*parts()[n][0]),
            test_data={"pixels": X_TEST, "labels": Y_TEST},
            loss=loss,
        )
        for n in range(2)
    ]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    reached, _ = await accuracy_of(session_of(learners, rounds=3, config=config))
    assert reached > 0.9


def linear() -> torch.nn.Module:
    model = torch.nn.Linear(64, 10)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def test_sample_weights_weigh_the_losses_of_examples() -> None:
    weights = np.where(Y == 3, 0.0, 2.0).astype(np.float32)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    for data in ((X, Y, weights), TensorDataset(*map(torch.from_numpy, (X, Y, weights)))):
        learner = torch_learner(model=linear(), train_data=data, test_data=data, loss=loss, metrics={})
        (weight, _), *_ = learner.train(learner.get_weights(), {"batch_size": len(X), "learning_rate": 1.0})
        gradient = ((0.1 - np.eye(10)[Y]) * weights[:, None]).T @ X / len(X)  # of a softmax that knows nothing
        np.testing.assert_allclose(weight, -gradient, atol=1e-5)
        assert learner.num_training_examples == len(X)
    with pytest.raises(ConfigError, match=r"the shape of the loss is \[\]; allowed: \[32\], one for each example"):
        torch_learner(model=linear(), train_data=(X, Y, weights), loss=LOSS).train(learner.get_weights(), {})


def test_a_loader_gives_its_own_batches() -> None:
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=100)
    learner = torch_learner(model=linear(), train_data=loader, test_data=loader)
    arrays = torch_learner(model=linear(), train_data=(X, Y), test_data=(X, Y))
    weights, _, metadata = learner.train(learner.get_weights(), {"num_local_updates": 20})
    check_metadata(metadata, examples=1437, batches=20, batches_per_epoch=15)
    own = learner.evaluate(weights, {})
    assert own == pytest.approx(arrays.evaluate(weights, {}), rel=1e-5)
    assert own["accuracy"] > 0.5
    for method in (learner.train, learner.evaluate):
        with pytest.raises(ConfigError, match=r"config\['batch_size'\].* the data comes in batches"):
            method(weights, {"batch_size": 5})


class Endless(IterableDataset[Any]):  # type: ignore[misc]
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


class Streamed(Endless):
    def __len__(self) -> int:
        return len(X)


def test_a_loader_says_how_much_there_is_or_is_told() -> None:
    with pytest.raises(ConfigError, match="train_data is 'a DataLoader without a length'"):
        torch_learner(train_data=DataLoader(Endless(), batch_size=100))
    learner = torch_learner(model=linear(), train_data=DataLoader(Streamed(), batch_size=100))
    assert learner.train(learner.get_weights(), {})[2]["num_completed_batches"] == 15
    assert learner.num_training_examples == 1437
    assert torch_learner(train_data=DataLoader(Streamed()), num_training_examples=5).num_training_examples == 5


async def test_a_step_of_ones_own_trains_where_nothing_fits() -> None:
    def step(model: torch.nn.Module, batch: Any) -> Any:
        noisy = batch["image"] + 0.01
        outputs = model(noisy)
        return LOSS(outputs, batch["class"]), {"accuracy": accuracy(outputs, batch["class"])}

    learners = [
        torch_learner(
            n,
            train_data={"image": parts()[n][0][0], "class": parts()[n][0][1]},
            test_data={"image": X_TEST, "class": Y_TEST},
            loss=None,
            step=step,
            metrics={},
        )
        for n in range(2)
    ]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    reached, result = await accuracy_of(session_of(learners, rounds=3, config=config))
    assert reached > 0.9
    assert result.rounds[-1].train_metrics.keys() == {"loss", "accuracy"}
    plain = torch_learner(loss=None, step=lambda model, batch: LOSS(model(batch[0]), batch[1]), metrics={})
    assert plain.evaluate(plain.get_weights(), {}).keys() == {"loss", "num_examples"}


@pytest.mark.parametrize("examples", [1, 33])
def test_a_last_batch_of_one_does_not_end_a_learner_with_batch_normalisation(examples: int) -> None:
    data = X[:examples], Y[:examples]
    for train in (data, DataLoader(TensorDataset(*map(torch.from_numpy, data)), batch_size=32)):
        learner = torch_learner(train_data=train)
        before = learner.get_weights()
        weights, metrics, metadata = learner.train(before, {})
        assert metadata["num_completed_batches"] == -(-examples // 32)
        assert np.isfinite(metrics["loss"])
        assert (weights[0] != before[0]).any()
        assert learner.model[1].training


class KeepsWhatItSaw(torch.nn.Module):  # type: ignore[misc]
    """Assigns a buffer that it computes, also in evaluation, and trains with it."""

    last: Any

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch_model()
        self.register_buffer("last", torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.classifier(x) + self.last * 0.01
        self.last = outputs.mean(0).detach()
        return outputs


async def test_a_model_that_assigns_buffers_trains_after_it_was_evaluated() -> None:
    learners = [torch_learner(n, model=KeepsWhatItSaw()) for n in range(2)]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    reached, _ = await accuracy_of(session_of(learners, rounds=3, config=config))
    assert reached > 0.9


Pair = namedtuple("Pair", ["x", "y"])


def test_examples_may_be_named_tuples_or_lists_of_numbers() -> None:
    named = [Pair(x, y) for x, y in zip(X[:40], Y[:40], strict=True)]
    results = []
    for data in (named, (X[:40].tolist(), Y[:40].tolist()), (X[:40], Y[:40])):
        learner = torch_learner(model=linear(), train_data=data, test_data=data)
        assert learner.num_training_examples == 40
        weights, *_ = learner.train(learner.get_weights(), {"batch_size": 8})
        results.append(learner.evaluate(weights, {}))
    assert results[0] == pytest.approx(results[2])
    assert results[1] == pytest.approx(results[2])


def test_what_no_loss_comes_of_is_said() -> None:
    learner = torch_learner()
    weights = learner.get_weights()

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            torch_learner(**options).train(weights, {})

    refused("loss is None; allowed: a function of outputs and targets", loss=None)
    refused(r"metrics is \['accuracy'\]; allowed: a dict from names to functions", metrics=["accuracy"])
    refused("accuracy is 'accuracy'; allowed: a function", metrics={"accuracy": "accuracy"})
    refused(r"the loss is \[32, 10\]; allowed: a tensor of one number", loss=lambda outputs, targets: outputs)
    refused("the loss is 'float'; allowed: a tensor of one number", loss=lambda outputs, targets: 0.5)
    refused("step is <function .*; allowed: None with a loss", step=lambda model, batch: 0)
    refused(r"the lengths of train_data is \[1437, 1436\]", train_data=(X, Y[:-1]))
    refused(r"the lengths of train_data is \[0, 0\]", train_data=(X[:0], Y[:0]))
    refused("train_data is 'a tuple of 4'; allowed: arrays in a tuple", train_data=(X, Y, Y, Y))
    refused("a batch is 'a list of 4'; allowed: .*give step=", train_data=TensorDataset(*[torch.from_numpy(X)] * 4))
    refused("a batch is 'a Tensor of 32'; allowed: .*give step=", train_data=list(X))
    two_inputs = TensorDataset(*map(torch.from_numpy, (Y, Y, X)))
    refused(r"several inputs are \(\(a, b\), y\)", train_data=two_inputs)
