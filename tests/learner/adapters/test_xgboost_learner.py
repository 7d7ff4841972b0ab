"""XGBoostLearner grows the trees that XGBoost grows, and carries them as arrays."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from digits import check_metadata, parts
from federations import session_of
from scipy.sparse import csr_matrix
from sklearn.datasets import load_breast_cancer

from metisfl_async import ConfigError, ControllerConfig, QuorumLost
from metisfl_async.adapters import XGBoostLearner
from metisfl_async.core.model import Array
from metisfl_async.errors import NoModel

BINARY = {"objective": "binary:logistic", "max_depth": 3, "eval_metric": ["logloss", "error"], "nthread": 1}
DIGITS = {"objective": "multi:softprob", "num_class": 10, "max_depth": 4, "eval_metric": "merror", "nthread": 1}


def tumours() -> tuple[Array, Array]:
    x, y = load_breast_cancer(return_X_y=True)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan  # missing values
    return x, y


def learner_of(rows: slice = slice(None), max_trees: int = 20, **options: Any) -> XGBoostLearner:
    x, y = tumours()
    return XGBoostLearner(BINARY, (x[rows], y[rows]), (x[400:], y[400:]), max_trees=max_trees, **options)


def config(rounds_of_boosting: int = 1, **options: Any) -> ControllerConfig:
    return ControllerConfig(
        aggregation_rule="TreeBagging", train_params={"num_boost_round": rounds_of_boosting, **options}
    )


def margins(booster: Any, x: Array) -> Array:
    found: Array = booster.predict(xgboost.DMatrix(x), output_margin=True)
    return found


async def test_a_single_learner_has_the_model_that_xgboost_makes() -> None:
    learner = learner_of()
    await session_of([learner], rounds=3, config=config(2)).run()
    x, y = tumours()
    alone = xgboost.train({**BINARY, "base_score": 0.5}, xgboost.DMatrix(x, y), 6)
    np.testing.assert_allclose(margins(learner.booster, x), margins(alone, x), atol=1e-5)
    assert len(learner.booster.get_dump()) == 6


async def test_what_learners_add_is_the_mean_by_their_share() -> None:
    learners = [learner_of(slice(0, 100)), learner_of(slice(100, 400))]
    result = await session_of(learners, rounds=1, config=config(2)).run()
    x, y = tumours()
    alone = [
        margins(xgboost.train({**BINARY, "base_score": 0.5}, xgboost.DMatrix(x[rows], y[rows]), 2), x)
        for rows in (slice(0, 100), slice(100, 400))
    ]
    for learner in learners:
        np.testing.assert_allclose(margins(learner.booster, x), 0.25 * alone[0] + 0.75 * alone[1], atol=1e-5)
    part = result.rounds[0].learners["learner-1"]
    check_metadata(part.train_metadata, examples=300, batches=2, batches_per_epoch=1)
    assert part.train_metrics.keys() == {"logloss", "error"}
    assert result.rounds[0].learners["learner-0"].evaluation_metrics["num_examples"] == 169


async def test_a_federation_tells_ten_digits_apart() -> None:
    learners = [XGBoostLearner(DIGITS, *part, max_trees=180) for part in parts()]
    result = await session_of(learners, rounds=6, config=config(learning_rate=1.0)).run()
    assert result.rounds[-1].evaluation_metrics["merror"] < 0.15  # by chance: 0.9
    assert len(learners[0].booster.get_dump()) == 180


def test_data_may_be_sparse_or_a_frame_and_have_weights() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    weights = np.linspace(0, 1, len(y), dtype=np.float32)
    made = [
        XGBoostLearner(BINARY, (features, y, weights), (features, y), max_trees=2, learning_rate=lambda _: 0.5)
        for features in (x, pd.DataFrame(x), csr_matrix(x))
    ]
    trained = [learner.train(learner.get_weights(), {"round_number": 1})[1]["logloss"] for learner in made]
    assert trained[0] == pytest.approx(trained[1])
    assert trained[0] == pytest.approx(trained[2])
    unweighted = XGBoostLearner(BINARY, (x, y), (x, y), max_trees=2)
    assert unweighted.train(unweighted.get_weights(), {"learning_rate": 0.5})[1]["logloss"] != pytest.approx(trained[0])


def test_draws_follow_from_the_seed() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    params = BINARY | {"subsample": 0.5}

    def grown(seed: int | None, task_seed: int | None = None) -> list[Array]:
        learner = XGBoostLearner(params, (x, y), (x, y), max_trees=2, seed=seed)
        learner.task_seed = task_seed
        return pickle.loads(pickle.dumps(learner)).train(learner.get_weights(), {})[0]  # type: ignore[no-any-return]

    first = grown(1)
    assert all(np.array_equal(*pair) for pair in zip(first, grown(1), strict=True))
    assert all(np.array_equal(*pair) for pair in zip(grown(None, 5), grown(None, 5), strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, grown(2), strict=True))


def test_training_stops_when_it_is_cancelled() -> None:
    learner = learner_of()
    learner.is_cancelled = True
    weights, _, metadata = learner.train(learner.get_weights(), {"num_boost_round": 5})
    assert (int(weights[1]), metadata["num_completed_batches"]) == (0, 0)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "an 'objective'"),
        (BINARY | {"booster": "dart"}, r"params\['booster'\] is 'dart'; allowed: 'gbtree'"),
        (BINARY | {"num_parallel_tree": 4}, "num_parallel_tree"),
        (BINARY | {"max_depth": 0}, "max_depth"),
        (BINARY | {"max_depth": 13}, "1 to 12"),
    ],
)
def test_parameters_that_make_no_such_trees_are_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        XGBoostLearner(params, tumours(), tumours(), max_trees=1)


def test_data_and_tasks_that_make_no_sense_are_refused() -> None:
    x, y = tumours()
    for data, said in (((x, y[1:]), "the lengths of train_data"), (x, "train_data is 'ndarray'")):
        with pytest.raises(ConfigError, match=said):
            XGBoostLearner(BINARY, data, (x, y), max_trees=1)  # type: ignore[arg-type]
    for options, said in (({"max_trees": 0}, "max_trees"), ({"learning_rate": 0.1}, "learning_rate")):
        with pytest.raises(ConfigError, match=said):
            learner_of(**options)
    learner = learner_of(max_trees=3)
    for key, value in (("num_boost_round", 0), ("epochs", 1), ("learning_rate", -1)):
        with pytest.raises(ConfigError, match=key):
            learner.train(learner.get_weights(), {key: value})
    with pytest.raises(ConfigError, match="max_trees is 3; allowed: at least 4"):
        learner.train(learner.get_weights(), {"num_boost_round": 4})


def test_global_models_that_are_no_trees_are_refused() -> None:
    learner = learner_of()
    grown, _, _ = learner.train(learner.get_weights(), {})
    with pytest.raises(ConfigError, match=r"is \(0, 1\); allowed: .*aggregation_rule='TreeBagging'"):
        learner.set_weights(grown)  # as another rule would leave it
    with pytest.raises(ConfigError, match="tensor 'group' of the global weights"):
        learner_of(max_trees=19).set_weights(learner.get_weights())
    names = learner.weight_names()
    for name, value, said in (("feature", 30, "feature is 30; allowed: below 30"), ("group", 1, "group is 1")):
        wrong = [array.copy() for array in grown]
        wrong[0][...], wrong[1][...] = 1, 0
        learner.set_weights(wrong)
        wrong[names.index(name)][0] = value
        with pytest.raises(ConfigError, match=said):
            learner.set_weights(wrong)
    wrong[names.index("feature")][0] = 3  # also at the last leaves, below which there is nothing
    with pytest.raises(ConfigError, match="none at the last leaves"):
        learner.set_weights(wrong)


async def test_a_federation_whose_model_is_full_ends_and_says_so() -> None:
    with pytest.raises(NoModel, match="4 trees do not fit into the model, which has room for max_trees=3"):
        await session_of([learner_of(max_trees=3), learner_of(max_trees=3)], config=config()).run()


async def test_another_rule_is_told_to_be_the_wrong_one() -> None:
    with pytest.raises(QuorumLost, match="TreeBagging"):
        await session_of([learner_of(), learner_of()], rounds=2).run()
