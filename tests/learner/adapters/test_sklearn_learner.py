"""SklearnLearner trains, reports and refuses as it says; with digits, it learns."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
from digits import accuracy_of, check_metadata, parts
from federations import nothing_left_behind, session_of
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier, SGDRegressor

from metisfl_async import ConfigError, ControllerConfig
from metisfl_async.adapters import SklearnLearner
from metisfl_async.core.metrics import Json

pytestmark = pytest.mark.slow

CLASSES = range(10)


def learner_of(number: int = 0, **options: object) -> SklearnLearner:
    train, test = parts()[number]
    return SklearnLearner(SGDClassifier(loss="log_loss", **options), train, test, classes=CLASSES, seed=number)


async def test_a_federation_learns_digits() -> None:
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 3})
    accuracy, result = await accuracy_of(session_of([learner_of(n) for n in range(3)], rounds=4, config=config))
    assert accuracy > 0.92  # by chance: 0.1
    assert result.rounds[-1].evaluation_metrics.keys() == {"accuracy", "loss"}
    part = result.rounds[0].learners["learner-1"]
    check_metadata(part.train_metadata, examples=479, batches=90, batches_per_epoch=30)


async def test_a_semi_synchronous_federation_trains_as_many_batches_as_the_times_allow() -> None:
    x, y = parts()[0][0]
    small = SklearnLearner(SGDClassifier(), (x[:50], y[:50]), parts()[0][1], classes=CLASSES, seed=1)
    config = ControllerConfig(
        scheduler="SemiSynchronous",
        semi_sync_lambda=2,
        semi_sync_max_slowness=1000.0,  # an epoch of the larger one is ten times that of the smaller
        train_params={"batch_size": 10, "epochs": 3},
    )
    _, result = await accuracy_of(session_of([small, learner_of(1)], rounds=2, config=config))
    rounds: list[list[dict[str, Any]]]
    rounds = [[part.train_metadata for part in record.learners.values()] for record in result.rounds]
    first, second = rounds
    assert [metadata["num_completed_batches"] for metadata in first] == [3 * 5, 3 * 48]
    t_max = 2 * max(metadata["processing_ms_per_epoch"] for metadata in first)
    planned = [ceil(t_max / metadata["processing_ms_per_batch"]) for metadata in first]
    assert [metadata["num_completed_batches"] for metadata in second] == planned


async def test_it_trains_in_a_process_of_its_own() -> None:
    config = ControllerConfig(train_params={"num_local_updates": 40})
    async with nothing_left_behind():
        accuracy, result = await accuracy_of(session_of([learner_of()], rounds=1, config=config, worker="process"))
    assert accuracy > 0.8
    assert result.rounds[0].learners["learner-0"].train_metadata["num_completed_batches"] == 40


def test_the_first_weights_are_zeros_whatever_the_data() -> None:
    coef, intercept = learner_of().get_weights()
    assert (coef.shape, intercept.shape) == ((10, 64), (10,))
    assert not coef.any()
    assert not intercept.any()
    assert learner_of().model.t_ == 1.0


def test_a_fitted_model_starts_from_what_it_knows() -> None:
    train, test = parts()[0]
    model = SGDClassifier().fit(*train)
    coef = model.coef_.copy()
    assert (SklearnLearner(model, train, test, classes=CLASSES).get_weights()[0] == coef).all()


def test_a_batch_is_one_partial_fit() -> None:
    """Against scikit-learn by hand: one batch with all rows, so that only its own order counts."""
    (x, y), test = parts()[0]
    learner = SklearnLearner(SGDClassifier(random_state=5, shuffle=False), (x, y), test, classes=CLASSES, seed=1)
    start = [w + np.float32(0.01) for w in learner.get_weights()]
    by_hand = SGDClassifier(random_state=5, shuffle=False)
    by_hand.partial_fit(np.zeros_like(x[:1]), y[:1], classes=CLASSES)
    by_hand.coef_, by_hand.intercept_, by_hand.t_ = start[0].copy(), start[1].copy(), 1.0
    for rows in np.split(np.random.default_rng(1).permutation(len(y)), [200, 400]):
        by_hand.partial_fit(x[rows], y[rows])
    (coef, intercept), _, _ = learner.train(start, {"batch_size": 200})
    assert (coef == by_hand.coef_).all()
    assert (intercept == by_hand.intercept_).all()


@pytest.mark.parametrize("kind", [SGDClassifier, Perceptron])
def test_two_classes_have_one_row_of_weights(kind: type[SGDClassifier]) -> None:
    (x, y), _ = parts()[0]
    data = (x.astype(np.float64), np.where(y == 0, "zero", "other"))
    learner = SklearnLearner(kind(), data, data, classes=["zero", "other"], seed=1)
    weights, metrics, _ = learner.train(learner.get_weights(), {"epochs": 4})
    assert weights[0].shape == (1, 64)
    assert metrics.keys() == {"accuracy"}  # they give no probabilities
    assert learner.evaluate(weights, {}) == metrics | {"num_examples": len(y)}
    assert metrics["accuracy"] > 0.95


def test_a_regressor_on_sparse_data_brings_its_loss_down() -> None:
    (x, y), _ = parts()[0]
    data = (csr_matrix(x), y)
    learner = SklearnLearner(SGDRegressor(), data, data, seed=1)
    weights = learner.get_weights()
    before = learner.evaluate(weights, {})["loss"]
    weights, metrics, _ = learner.train(weights, {"epochs": 5})
    assert metrics | {"num_examples": len(y)} == learner.evaluate(weights, {})
    assert metrics["loss"] < before / 3


def test_training_stops_in_the_middle_when_it_is_cancelled() -> None:
    learner = learner_of()
    learner.is_cancelled = True
    weights, _, metadata = learner.train(learner.get_weights(), {"epochs": 1000})
    assert metadata["num_completed_batches"] == 0
    assert not weights[0].any()


def test_numpys_random_generator_is_not_touched() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    learner = learner_of()
    learner.train(learner.get_weights(), {})
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002
    again = learner_of()
    again.train(again.get_weights(), {})
    assert (again.get_weights()[0] == learner.get_weights()[0]).all()


def test_a_learning_rate_holds_for_its_task() -> None:
    learner = learner_of(learning_rate="constant", eta0=0.1)
    zeros = learner.get_weights()
    (tiny, _), *_ = learner.train(zeros, {"learning_rate": 1e-9})
    assert np.abs(tiny).max() < 1e-6
    (usual, _), *_ = learner.train(zeros, {})
    assert np.abs(usual).max() > 1e-2
    with pytest.raises(ConfigError, match="learning_rate='optimal' of the model computes its own"):
        learner_of().train(zeros, {"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"proximal_mu": 0.1}, "proximal_mu"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1}, "learning_rate"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_followed_is_refused(config: dict[str, Json], named: str) -> None:
    learner = learner_of(learning_rate="constant", eta0=0.1)
    with pytest.raises(ConfigError) as caught:
        learner.train(learner.get_weights(), config)
    assert caught.value.field == f"config[{named!r}]"


def test_evaluation_takes_no_config_and_other_shapes_are_refused() -> None:
    learner = learner_of()
    with pytest.raises(ConfigError, match="only the keys metrics, round_number;"):
        learner.evaluate(learner.get_weights(), {"batch_size": 8})
    with pytest.raises(ConfigError, match="do all learners build the same one"):
        learner.set_weights([np.zeros((3, 64)), np.zeros(3)])


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("model", {"model": LogisticRegression()}),
        ("model.average", {"model": SGDClassifier(average=True)}),
        ("classes", {"classes": None}),
        ("classes", {"model": SGDRegressor()}),
        ("the labels of train_data", {"classes": range(9)}),
        ("train_data", {"train_data": (np.zeros((3, 64)), np.zeros(2))}),
        ("test_data", {"test_data": np.zeros((3, 64))}),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_when_it_is_made(field: str, options: dict[str, object]) -> None:
    train, test = parts()[0]
    arguments: dict[str, object] = {"model": SGDClassifier(), "train_data": train, "test_data": test}
    with pytest.raises(ConfigError) as caught:
        SklearnLearner(**(arguments | {"classes": CLASSES} | options))  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_learners_of_unlike_models_are_told_so() -> None:
    train, test = parts()[0]
    other = SklearnLearner(SGDClassifier(), (train[0][:, :32], train[1]), (test[0][:, :32], test[1]), classes=CLASSES)
    session = session_of([learner_of(), other], rounds=1)
    result = await session.run()
    (failed,) = [part for part in result.rounds[0].learners.values() if part.failures]
    assert "do all learners build the same one?" in failed.failures[0].message


class Column:
    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> Any:
        return self.values


class Frame:
    """What a frame of pandas has of which use is made here."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.data, self.columns, self.shape = columns, list(columns), (len(next(iter(columns.values()))), len(columns))

    def __getitem__(self, name: str) -> Column:
        return Column(np.asarray(self.data[name]))

    def to_numpy(self) -> Any:
        return np.stack([np.asarray(values) for values in self.data.values()], 1)


def test_frames_are_taken_by_their_columns() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(size=60)
    frame = Frame({"a": a, "b": b})
    options: dict[str, Any] = {"learning_rate": "constant", "eta0": 0.05, "alpha": 0.0}
    y = (2 * a - b)[:, None]  # of one column
    learner = SklearnLearner(SGDRegressor(**options), (frame, y), (frame, y))
    weights, *_ = learner.train(learner.get_weights(), {"epochs": 20, "batch_size": 4})
    np.testing.assert_allclose(weights[0], [2, -1], atol=0.05)
    with pytest.raises(ConfigError, match=r"column 'b' of train_data is '<U1'; allowed: numbers: encode what is none"):
        SklearnLearner(SGDRegressor(), (Frame({"a": a, "b": ["x"] * 60}), y), (frame, y))
    fitted = SGDRegressor(**options)
    fitted.partial_fit(frame.to_numpy(), y[:, 0])
    fitted.feature_names_in_ = np.array(["a", "b"])
    with pytest.raises(ConfigError, match=r"the columns of a frame is \['b', 'a'\]"):
        SklearnLearner(fitted, (frame, y), (Frame({"b": b, "a": a}), y))
    SklearnLearner(fitted, (frame, y), (frame, y)).evaluate(weights, {})
