"""Five learners, each with other digits than the rest: one model for all, and a head of its own for each (FedPer)."""

import asyncio
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    TerminationSignals,
)
from metisfl_async.adapters import TorchLearner
from metisfl_async.data import dirichlet_partition

SITES = 5


def make_model() -> torch.nn.Module:
    body = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    return torch.nn.Sequential(OrderedDict(body=body, head=torch.nn.Linear(64, 10)))


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == labels).float().mean()


def train(federated: str | list[str]) -> FederationResult:
    """Train on parts in which labels are skewed; each learner is measured on digits like those that it has."""
    x, y = load_digits(return_X_y=True)
    parts = dirichlet_partition((x / 16).astype(np.float32), y, num_partitions=SITES, alpha=0.2, seed=1)
    learners = {}
    for number, (x_part, y_part) in enumerate(zip(*parts, strict=True), 1):
        x_train, x_test, y_train, y_test = train_test_split(x_part, y_part, test_size=0.3, random_state=1)
        learners[f"site-{number}"] = TorchLearner(
            make_model,
            (x_train, y_train),
            (x_test, y_test),
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            metrics={"accuracy": accuracy},
            federated=federated,
        )
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    session = DriverSession(Controller(controller_config=config), learners, TerminationSignals(federation_rounds=10))
    return asyncio.run(session.run())


def main() -> None:
    shared, own = train("all").rounds[-1], train(["body.*"]).rounds[-1]
    print("         one model   body shared, own head   after training")
    for site, part in own.learners.items():
        print(
            f"{site}      {shared.learners[site].evaluation_metrics['accuracy']:.3f}"
            f"                   {part.evaluation_metrics['accuracy']:.3f}"
            f"            {part.train_metrics['personal/accuracy']:.3f}"
        )
    print(
        f"mean        {shared.evaluation_metrics['accuracy']:.3f}"
        f"                   {own.evaluation_metrics['accuracy']:.3f}"
        f"            {own.train_metrics['personal/accuracy']:.3f}"
    )


if __name__ == "__main__":
    main()
