"""KerasLearner trains, reports and refuses as it says; with digits, it learns."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import proximal
import pytest
import tensorflow as tf
import torch
from digits import accuracy_of, check_metadata, parts, weights_differ
from federations import nothing_left_behind, session_of
from keras_models import keras_learner, keras_model
from torch.utils.data import DataLoader, TensorDataset

from metisfl_async import ConfigError, ControllerConfig
from metisfl_async.adapters import BatchBudget, KerasLearner, keras_budget_callback, keras_proximal_term, load_into
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.keras_parts import keras_variables

pytestmark = pytest.mark.tensorflow


async def test_a_federation_learns_digits() -> None:
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 3}, eval_params={"batch_size": 50})
    accuracy, result = await accuracy_of(session_of([keras_learner(n) for n in range(3)], rounds=4, config=config))
    assert accuracy > 0.92  # by chance: 0.1
    assert result.rounds[-1].train_metrics.keys() == {"loss", "accuracy"}
    part = result.rounds[0].learners["learner-1"]
    check_metadata(part.train_metadata, examples=479, batches=90, batches_per_epoch=30)


@pytest.mark.parametrize("model", [keras_model, keras_model()], ids=["a function", "a model"])
async def test_it_trains_in_a_process_of_its_own(model: Any) -> None:
    config = ControllerConfig(train_params={"num_local_updates": 70, "batch_size": 16, "proximal_mu": 0.01})
    async with nothing_left_behind():
        session = session_of([keras_learner(model=model)], rounds=2, config=config, worker="process")
        accuracy, result = await accuracy_of(session)
    assert accuracy > 0.8
    assert result.rounds[0].learners["learner-0"].train_metadata["num_completed_batches"] == 70


def linear_model(momentum: float = 0.0, **options: Any) -> Any:
    """The model of `proximal`."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, **options)])
    model.compile(optimizer=keras.optimizers.SGD(proximal.RATE, momentum=momentum), loss="mse")
    model.set_weights([proximal.W, proximal.B])
    return model


@pytest.mark.parametrize(
    ("updates", "epochs"), [(1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (11, [4, 4, 3])], ids=str
)
def test_fit_stops_exactly_and_goes_on_into_the_next_epoch(updates: int, epochs: list[int]) -> None:
    budget = BatchBudget({"batch_size": 3, "num_local_updates": updates}, num_examples=11)
    seen: list[int] = []

    class Records(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            seen.append(0)

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            seen[-1] += 1

    model = linear_model()
    callbacks = [keras_budget_callback(budget), Records()]
    x, y = proximal.X[:11], proximal.Y[:11]
    model.fit(x, y, batch_size=budget.batch_size, epochs=budget.num_epochs, callbacks=callbacks, verbose=0)
    assert seen == epochs
    assert model.optimizer.iterations == updates
    check_metadata(budget.metadata(), examples=11, batches=updates, batches_per_epoch=4)


def test_several_steps_in_one_execution_are_counted_or_refused() -> None:
    learner = KerasLearner(linear_model(), (proximal.X, proximal.Y), (proximal.X, proximal.Y))
    learner.model.compile(optimizer="sgd", loss="mse", steps_per_execution=4)
    start = learner.get_weights()
    for updates in (6, 4, 10, 12):  # an epoch has six batches, and so two executions, of four and of two
        learner.model.optimizer.iterations.assign(0)
        _, _, metadata = learner.train(start, {"batch_size": 2, "num_local_updates": updates})
        assert metadata["num_completed_batches"] == learner.model.optimizer.iterations == updates
    with pytest.raises(ConfigError, match="steps_per_execution is 4; allowed: 1, or a number that divides 3"):
        learner.train(start, {"batch_size": 2, "num_local_updates": 9})


@pytest.mark.parametrize("mu", [0.0, proximal.MU])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_proximal_term_is_in_the_gradient_of_every_step(steps: int, mu: float) -> None:
    data = (proximal.X, proximal.Y)
    learner = KerasLearner(linear_model(), data, data)
    start = learner.get_weights()
    config: dict[str, Json] = {"batch_size": 12, "num_local_updates": steps}
    plain, *_ = learner.train(start, config)  # traces the step without the term
    (w, b), *_ = learner.train(start, config | {"proximal_mu": mu})
    expected_w, expected_b = proximal.descend(steps, mu)
    np.testing.assert_allclose(w, expected_w, rtol=1e-5)
    np.testing.assert_allclose(b, expected_b, rtol=1e-5)
    plain_w, plain_b = proximal.descend(steps, 0)
    for result in (plain, learner.train(start, config)[0]):  # before it and after it
        np.testing.assert_allclose(result[0], plain_w, rtol=1e-5)
        np.testing.assert_allclose(result[1], plain_b, rtol=1e-5)


def test_the_proximal_term_holds_on_to_the_weights_of_each_round_anew() -> None:
    model = linear_model()
    start = model.get_weights()
    for offset in (0.0, 0.25):
        model.set_weights([w + np.float32(offset) for w in start])
        with keras_proximal_term(model, proximal.MU):
            assert model.train_on_batch(proximal.X, proximal.Y) == pytest.approx(
                mse(offset), rel=1e-5
            )  # no distance yet
            assert model.train_on_batch(proximal.X, proximal.Y) > 0
        assert not model.losses or sum(map(float, model.losses)) == 0  # outside, there is none


def mse(offset: float) -> float:
    error = proximal.X @ (proximal.W + offset) + proximal.B + offset - proximal.Y
    return float((error**2).mean())


def test_a_weights_own_regularizer_stays() -> None:
    model = linear_model(kernel_regularizer=keras.regularizers.L2(0.5))
    own = 0.5 * float((proximal.W**2).sum())
    with keras_proximal_term(model, 2.0):
        model.set_weights([proximal.W + 1, proximal.B])
        own_moved = 0.5 * float(((proximal.W + 1) ** 2).sum())
        assert sum(map(float, model.losses)) == pytest.approx(own_moved + 2.0 / 2 * 3, rel=1e-5)
    model.set_weights([proximal.W, proximal.B])
    assert sum(map(float, model.losses)) == pytest.approx(own, rel=1e-5)


def test_an_evaluation_has_no_proximal_term() -> None:
    learner = keras_learner()
    weights, *_ = learner.train(learner.get_weights(), {"proximal_mu": 1.0})
    plain = keras_learner()
    assert learner.evaluate(weights, {}) == pytest.approx(plain.evaluate(weights, {}))


@pytest.mark.parametrize("mu", [-1, float("nan"), float("inf"), True, "0.1"], ids=repr)
def test_a_factor_that_makes_no_sense_is_refused(mu: Any) -> None:
    with pytest.raises(ConfigError, match="proximal_mu"), keras_proximal_term(linear_model(), mu):
        pass


class Pairs(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (x, y), of which the last is smaller."""

    def __init__(self) -> None:
        super().__init__()

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> tuple[Array, Array]:
        rows = slice(5 * number, 5 * number + 5)
        return proximal.X[:8][rows], proximal.Y[:8][rows]


@pytest.mark.parametrize("data", ["a Dataset", "a PyDataset", "a DataLoader", "arrays"])
def test_evaluation_says_on_how_many_examples(data: str) -> None:
    x, y = proximal.X[:8], proximal.Y[:8]
    rows = TensorDataset(*map(torch.from_numpy, (x, y)))
    made: dict[str, Any] = {
        "a Dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(5),
        "a PyDataset": Pairs(),
        "a DataLoader": DataLoader(rows, batch_size=5),
        "arrays": (x, y),
    }
    learner = KerasLearner(linear_model(), (x, y), made[data])
    expected = np.mean((x @ proximal.W[:, 0] + proximal.B - y.ravel()) ** 2)
    for _ in range(2):
        measured = learner.evaluate([proximal.W, proximal.B], {})
        assert measured["num_examples"] == 8
        assert measured["loss"] == pytest.approx(expected, rel=1e-5)


def test_data_in_batches_says_how_many_examples_it_has() -> None:
    data = tf.data.Dataset.from_tensor_slices((proximal.X, proximal.Y)).batch(5)
    learner = KerasLearner(linear_model(), data, data, num_training_examples=12)
    weights, _, metadata = learner.train(learner.get_weights(), {"num_local_updates": 4})
    check_metadata(metadata, examples=12, batches=4, batches_per_epoch=3)
    assert learner.evaluate(weights, {})["loss"] > 0
    for method in (learner.train, learner.evaluate):
        with pytest.raises(ConfigError, match=r"config\['batch_size'\].* the data comes in batches"):
            method(weights, {"batch_size": 5})
    with pytest.raises(ConfigError, match="num_training_examples"):
        KerasLearner(linear_model(), data, data)
    with pytest.raises(ConfigError, match="assert_cardinality"):
        KerasLearner(linear_model(), data.repeat(), data, num_training_examples=12).train(weights, {})


def test_training_stops_in_the_middle_when_it_is_cancelled() -> None:
    class Cancels(keras.losses.MeanSquaredError):  # type: ignore[misc]
        def call(self, *arguments: Any) -> Any:
            learner.is_cancelled = True
            return super().call(*arguments)

    learner = KerasLearner(linear_model(), (proximal.X, proximal.Y), (proximal.X, proximal.Y))
    learner.model.compile(optimizer="sgd", loss=Cancels())
    _, _, metadata = learner.train(learner.get_weights(), {"epochs": 1000, "batch_size": 1})
    assert metadata["num_completed_batches"] == 1


def test_a_learning_rate_holds_for_its_task() -> None:
    learner = keras_learner()
    start = learner.get_weights()
    (tiny, *_), *_ = learner.train(start, {"learning_rate": 1e-9})
    assert np.abs(tiny - start[0]).max() < 1e-6
    (usual, *_), *_ = learner.train(start, {})
    assert np.abs(usual - start[0]).max() > 1e-3
    for rate in (keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5), lambda: 0.1):
        learner.model.optimizer = keras.optimizers.SGD(rate)
        with pytest.raises(ConfigError, match="the optimizer has a schedule"):
            learner.train(start, {"learning_rate": 0.2})


def test_a_function_is_called_where_the_model_is_needed() -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(keras_model())
        return made[-1]

    learner = keras_learner(model=make)
    assert made == []
    learner.get_weights()
    assert made == [learner.model]


def test_a_copy_has_the_weights_and_what_the_optimizer_remembers() -> None:
    learner = KerasLearner(linear_model(momentum=0.9), (proximal.X, proximal.Y), (proximal.X, proximal.Y))
    weights, *_ = learner.train(learner.get_weights(), {"batch_size": 12, "proximal_mu": 0.1})
    copy = pickle.loads(pickle.dumps(learner))
    assert not weights_differ(copy, weights)
    results = [one.train(weights, {"batch_size": 12, "proximal_mu": 0.1})[0] for one in (learner, copy)]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)


async def test_a_part_is_the_federations_by_names_that_all_models_share(tmp_path: Path) -> None:
    learners = [KerasLearner(keras_model, *parts()[n], federated="trainable") for n in range(2)]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 3})
    accuracy, result = await accuracy_of(session_of(learners, rounds=3, config=config))
    assert accuracy > 0.9
    layers = ("dense", "kernel bias"), ("batch_normalization", "gamma beta"), ("dense_1", "kernel bias")
    assert result.tensor_names == [f"{layer}/{name}" for layer, names in layers for name in names.split()]
    means = [learner.model.layers[1].moving_mean.numpy() for learner in learners]
    assert (means[0] != means[1]).any()  # their own
    result.save_model(tmp_path / "model.safetensors")
    model, again = keras_model(), keras_model()
    result.load_into(model)
    load_into(again, tmp_path / "model.safetensors")
    for own in (model, again):
        for variable, array in zip(own.trainable_weights, learners[0].get_weights(), strict=True):
            assert (variable.numpy() == array).all()
    with pytest.raises(ConfigError, match="federated is 'body/\\*'; allowed: what is in the model: dense/kernel, "):
        KerasLearner(keras_model, *parts()[0], federated=["body/*"]).get_weights()


def test_names_are_those_of_layers_or_their_places() -> None:
    shared = keras.layers.Dense(2)
    inner = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(2, name="mine")], name="inner")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, shared(keras.layers.LayerNormalization()(inner(shared(inputs)))))
    names = [name for name in keras_variables(model) if name.endswith(("kernel", "gamma"))]
    assert names == ["dense/kernel", "inner/dense_1/kernel", "inner/mine/kernel", "layer_normalization/gamma"]


def two_heads() -> Any:
    upper, lower = keras.Input((32,), name="upper"), keras.Input((32,), name="lower")
    features = keras.layers.Dense(32, activation="relu")(keras.layers.Concatenate()([upper, lower]))
    heads = [keras.layers.Dense(size, activation="softmax", name=name)(features) for name, size in KINDS.items()]
    model = keras.Model([upper, lower], heads)
    losses = ["sparse_categorical_crossentropy"] * 2
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=losses, metrics=[["accuracy"], ["accuracy"]])
    return model


KINDS = {"digit": 10, "odd": 2}


async def test_two_inputs_and_two_outputs_are_as_many_examples_as_one() -> None:
    def halves(x: Any, y: Any) -> Any:
        return [x[:, :32], x[:, 32:]], [y, y % 2]

    learners = [KerasLearner(two_heads, halves(*train), halves(*test)) for train, test in parts()[:2]]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 4})
    result = await session_of(learners, rounds=3, config=config).run()
    assert result.rounds[-1].evaluation_metrics["digit_accuracy"] > 0.85
    assert result.rounds[0].learners["learner-0"].weight == 479
    named = {"upper": parts()[0][0][0][:, :32], "lower": parts()[0][0][0][:, 32:]}
    y = parts()[0][0][1]
    learner = KerasLearner(two_heads, (named, [y, y % 2]), (named, [y, y % 2]))
    assert learner.num_training_examples == 479
    assert learner.train(learner.get_weights(), {})[2]["num_completed_batches"] == 15


def test_sample_weights_weigh_the_losses_of_examples() -> None:
    weights = np.array([0, 2] * 6, np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((proximal.X, proximal.Y, weights)).batch(12)
    for data in ((proximal.X, proximal.Y, weights), dataset):
        learner = KerasLearner(linear_model(), data, data, num_training_examples=12)
        (w, _), *_ = learner.train(learner.get_weights(), {} if data is dataset else {"batch_size": 12})
        error = (proximal.X @ proximal.W + proximal.B - proximal.Y) * weights[:, None]
        gradient = 2 * proximal.X.T @ error / weights.sum()
        np.testing.assert_allclose(w, proximal.W - proximal.RATE * gradient, rtol=1e-5)
        assert learner.evaluate(learner.get_weights(), {})["loss"] > 0


def test_other_models_and_data_are_refused() -> None:
    train, test = parts()[0]
    not_compiled = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    for model in (not_compiled, lambda: not_compiled):
        with pytest.raises(ConfigError, match="built and compiled"):
            KerasLearner(model, train, test).get_weights()
    with pytest.raises(ConfigError, match="a function that makes one"):
        KerasLearner("model.keras", train, test)
    with pytest.raises(ConfigError, match="train_data"):
        KerasLearner(keras_model, (*train, *train), test)
    with pytest.raises(ConfigError, match="test_data is 'a tuple of 1'"):
        KerasLearner(keras_model, train, test[:1])
    with pytest.raises(ConfigError, match=r"the lengths of train_data is \[479, 478\]"):
        KerasLearner(keras_model, (train[0], train[1][1:]), test)
    learner = keras_learner()
    with pytest.raises(ConfigError, match="do all learners build the same one"):
        learner.set_weights(learner.get_weights()[:-1])
    for name in ("momentum", "num_local_updates", "epochs"):
        with pytest.raises(ConfigError, match=name):
            learner.train(learner.get_weights(), {name: 0})
    with pytest.raises(ConfigError, match="only the keys batch_size"):
        learner.evaluate(learner.get_weights(), {"steps": 1})
