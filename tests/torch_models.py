"""Small PyTorch models for digits. They are here so that a spawned process can import what makes them, and no Keras."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from digits import parts

from metisfl_async.adapters import TorchLearner


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


def with_dropout() -> torch.nn.Module:
    layers = torch.nn.Linear(64, 32), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    return torch.nn.Sequential(*layers)
