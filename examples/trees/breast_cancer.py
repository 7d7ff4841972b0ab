"""Three hospitals grow one forest of boosted trees on scikit-learn's breast cancer data."""

import asyncio

from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from metisfl_async import Controller, ControllerConfig, DriverSession, TerminationSignals
from metisfl_async.adapters import XGBoostLearner
from metisfl_async.data import dirichlet_partition

ROUNDS, HOSPITALS = 15, 3
PARAMS = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "eval_metric": ["logloss", "error"]}


def main() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=1, stratify=y)
    learners = [
        XGBoostLearner(PARAMS, part, (x_test, y_test), max_trees=ROUNDS * HOSPITALS)
        for part in zip(*dirichlet_partition(x_train, y_train, num_partitions=HOSPITALS, alpha=1.0), strict=True)
    ]
    config = ControllerConfig(aggregation_rule="TreeBagging", train_params={"num_boost_round": 1})
    signals = TerminationSignals(federation_rounds=ROUNDS)
    result = asyncio.run(DriverSession(Controller(controller_config=config), learners, signals).run())
    for record in result.rounds:
        print(f"round {record.number}: accuracy {1 - record.evaluation_metrics['error']:.3f}")

    booster = learners[0].booster  # the final model, to predict with and to save
    scores = booster.inplace_predict(x_test)
    print(f"{len(booster.get_dump())} trees, area under the curve {roc_auc_score(y_test, scores):.3f}")


if __name__ == "__main__":
    main()
