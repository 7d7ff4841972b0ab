"""Three learners train scikit-learn's SGDClassifier on handwritten digits."""

import asyncio

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from metisfl_async import Controller, ControllerConfig, DriverSession, TerminationSignals
from metisfl_async.adapters import SklearnLearner
from metisfl_async.data import dirichlet_partition


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, random_state=1)
    learners = [
        SklearnLearner(SGDClassifier(loss="log_loss"), part, (x_test, y_test), classes=np.unique(y))
        for part in zip(*dirichlet_partition(x_train, y_train, num_partitions=3, alpha=1.0), strict=True)
    ]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    session = DriverSession(Controller(controller_config=config), learners, TerminationSignals(federation_rounds=10))
    result = asyncio.run(session.run())
    for record in result.rounds:
        print(f"round {record.number}: accuracy {record.evaluation_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
