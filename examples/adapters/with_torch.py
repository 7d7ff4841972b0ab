"""Three learners train a PyTorch module on handwritten digits."""

import asyncio
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from metisfl_async import Controller, ControllerConfig, DriverSession, TerminationSignals
from metisfl_async.adapters import TorchLearner
from metisfl_async.data import dirichlet_partition


def make_model() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == labels).float().mean()


def main() -> None:
    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(images, y, random_state=1)
    learners = [
        TorchLearner(
            make_model,
            part,
            (x_test, y_test),
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            metrics={"accuracy": accuracy},
        )
        for part in zip(*dirichlet_partition(x_train, y_train, num_partitions=3, alpha=1.0), strict=True)
    ]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2, "proximal_mu": 0.01})
    session = DriverSession(Controller(controller_config=config), learners, TerminationSignals(federation_rounds=10))
    result = asyncio.run(session.run())
    for record in result.rounds:
        print(f"round {record.number}: accuracy {record.evaluation_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
