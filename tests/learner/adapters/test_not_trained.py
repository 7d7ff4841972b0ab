"""Buffers are marked, so that server optimizers do not step them, and masks may be infinite."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from digits import accuracy_of, parts
from federations import session_of
from keras_models import keras_model
from torch_models import accuracy, torch_learner, torch_model

from metisfl_async import ControllerConfig
from metisfl_async.adapters import KerasLearner, TorchLearner

pytestmark = pytest.mark.slow

TRAIN = {"batch_size": 16, "epochs": 2}


@pytest.mark.parametrize("rule", ["FedAvgM", "FedAdam", "FedYogi"])
async def test_batch_normalisation_lives_with_a_server_optimizer(rule: str) -> None:
    def at_a_distance(part: Any) -> Any:
        (x, y), test = part
        return (x * 3 - 1, y), (test[0] * 3 - 1, test[1])  # so that the variances change much at first

    learners = []
    for n in range(3):
        train, test = at_a_distance(parts()[n])
        learners.append(torch_learner(n, train_data=train, test_data=test))
    config = ControllerConfig(aggregation_rule=rule, train_params=TRAIN)
    reached, result = await accuracy_of(session_of(learners, rounds=10, config=config))
    assert result.untrained_names == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert result.named_arrays()["1.running_var"].min() > 0
    assert all(math.isfinite(record.evaluation_metrics["loss"]) for record in result.rounds)
    assert reached > 0.8


class CausalModel(torch.nn.Module):  # type: ignore[misc]
    """Attention over the rows of an image, with the mask as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, 8, 8)
        attended, _ = self.attention(rows, rows, rows, attn_mask=self.mask, need_weights=False)
        return self.head((rows + attended).flatten(1))


async def test_a_causal_mask_travels_with_the_model() -> None:
    learners = [
        TorchLearner(
            CausalModel(),
            *parts()[n],
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=partial(torch.optim.Adam, lr=0.01),
            metrics={"accuracy": accuracy},
            seed=n,
        )
        for n in range(2)
    ]
    config = ControllerConfig(train_params=TRAIN)
    reached, result = await accuracy_of(session_of(learners, rounds=3, over_grpc=True, config=config))
    assert reached > 0.85
    assert result.untrained_names == ["mask"]
    fresh = CausalModel()
    mask = fresh.mask.clone()
    torch.nn.init.zeros_(fresh.mask)
    result.load_into(fresh)
    assert (fresh.mask == mask).all()


def test_frozen_layers_are_not_trained() -> None:
    model = torch_model()
    model[0].requires_grad_(False)
    learner = torch_learner(model=model)
    assert learner.untrained_names()[:2] == ["0.weight", "0.bias"]


@pytest.mark.tensorflow
def test_what_keras_does_not_train_is_marked() -> None:
    model = keras_model()
    learner = KerasLearner(model, *parts()[0])
    statistics = ["batch_normalization/moving_mean", "batch_normalization/moving_variance"]
    assert learner.untrained_names() == statistics
    model.layers[0].trainable = False
    assert learner.untrained_names() == ["dense/kernel", "dense/bias", *statistics]
