"""A learner around a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from math import isclose
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics
from metisfl_async.core.model import DTYPES, Array
from metisfl_async.learner.adapters.alone import alone_with
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.examples import count_in_batches, count_rows
from metisfl_async.learner.adapters.federated import Federated, check_federated, chosen, not_carried, personal_metrics
from metisfl_async.learner.adapters.keras_draws import can_be_gathered, keras_batches, reseed_dropout
from metisfl_async.learner.adapters.keras_parts import (
    array_of_variable,
    keras_budget_callback,
    keras_clipping,
    keras_proximal_term,
    keras_variables,
)
from metisfl_async.learner.adapters.keras_state import restore_keras, state_of_keras
from metisfl_async.learner.adapters.options import (
    KEYS,
    check_schedule,
    check_shapes,
    checked_mu,
    generator_of,
    learning_rate_of,
    max_grad_norm_of,
    only,
    whole_number,
)
from metisfl_async.learner.adapters.seeds import keras_seeded
from metisfl_async.learner.learner import Config, Learner

if TYPE_CHECKING:
    import keras

__all__ = ["KerasLearner"]


class KerasLearner(Learner):
    """Trains a Keras model with `fit` and measures it with `evaluate`; reports what the model is compiled to measure.

    Needs Keras: ``pip install tensorflow``.

    Parameters
    ----------
    model : keras.Model or callable
        A compiled model, or a function that makes one; the function is called where the model is first needed, which
        with ``worker="process"`` is that process, and draws its weights with the seed. What the optimizer remembers
        stays with the learner.
    train_data, test_data : tuple (x, y) or (x, y, sample_weight), or anything that `fit` takes and that has a length
        Arrays, or lists or dicts of them for several inputs and outputs, in the order that Keras draws; or data in
        batches, such as a `tf.data.Dataset` whose cardinality is known.
    num_training_examples : int, optional
        Needed for data in batches, whose examples are not counted.
    federated : {"all", "trainable"}, list of str, or callable
        Which weights are the federation's: all, as in `get_weights`; those that are trained, as with LoRA or frozen
        layers; those of these names, or that match these patterns (``"dense/*"``); or those for whose name the
        function gives true. The rest stays with the learner, trained or not. `weight_names()` gives the names.
    learning_rate : callable, optional
        From a round's number to the rate of that round.
    seed : int, optional
        Of the order of training examples (of NumPy's arrays, with Keras on TensorFlow), of dropout, and of the model
        that a function makes. Without one, it follows from the session's seed and the learner's id. Global generators
        are left as they were.

    Notes
    -----
    `train` takes "batch_size", "epochs", "num_local_updates", "learning_rate", "max_grad_norm" and "proximal_mu" (see
    `keras_proximal_term`), `evaluate` "batch_size"; also lists "metrics" and "metadata" of names that the result
    must have. Other keys are refused. Where a weight that is trained stays with the learner, the metrics of training
    have what its own model reaches on the test data after training, too, with "personal/" before the names.
    """

    train_keys: ClassVar[frozenset[str]] = KEYS | {"proximal_mu", "max_grad_norm"}

    def __init__(
        self,
        model: keras.Model | Callable[[], keras.Model],
        train_data: object,
        test_data: object,
        *,
        num_training_examples: int | None = None,
        federated: Federated = "all",
        learning_rate: Callable[[int], float] | None = None,
        seed: int | None = None,
    ) -> None:
        check_federated(federated)
        check_schedule(learning_rate)
        self._schedule = learning_rate
        _parts("test_data", test_data)
        if isinstance(train_data, tuple):
            num_training_examples = count_rows("train_data", _parts("train_data", train_data))
        elif num_training_examples is None:
            raise ConfigError("num_training_examples", None, "a number, for training data that is not a tuple (x, y)")
        super().__init__(num_training_examples=num_training_examples)
        self.train_data, self.test_data, self._federated = train_data, test_data, federated
        self._seed, self._rng = seed, None if seed is None else np.random.default_rng(seed)
        self._num_test_examples: int | None = None  # once they are counted
        self._names: list[str] = []  # of the weights that are the federation's, once there is a model
        self._make_model: Callable[[], keras.Model] | None = None
        self._model: keras.Model | None = None
        if hasattr(model, "get_weights"):
            self._model = model
            self._weights()  # says what is wrong with it here, and not in the first round
        elif callable(model):
            self._make_model = model
        else:
            raise ConfigError("model", model, "a compiled Keras model, or a function that makes one")

    @property
    def is_made(self) -> bool:  # type: ignore[override]
        return self._model is not None

    @property
    def model(self) -> keras.Model:
        if self._model is None:
            assert self._make_model is not None
            with keras_seeded(self.task_seed if self._seed is None else self._seed):
                self._model = self._make_model()
        if not self._model.compiled or not self._model.built:
            raise ConfigError("model", self._model.name, "a model that is built and compiled")
        return self._model

    def weight_names(self) -> list[str]:
        return list(self._weights())

    def untrained_names(self) -> list[str]:
        trained = {id(variable) for variable in self.model.trainable_weights}
        return [name for name, variable in self._weights().items() if id(variable) not in trained]

    def belongings(self) -> dict[Hashable, str]:
        if self._model is None:  # each has its own, once the function is called
            return {}
        may_be_shared = set(map(id, self._model.non_trainable_weights)) - set(map(id, self._weights().values()))
        found: dict[Hashable, str] = {id(self._model): "the model", id(self._model.optimizer): "the optimizer"}
        for name, variable in keras_variables(self._model).items():
            if id(variable) not in may_be_shared:  # of a frozen base
                found[id(variable)] = f"weight {name!r}"
        return found

    def get_weights(self) -> list[Array]:
        return [array_of_variable(variable) for variable in self._weights().values()]

    def set_weights(self, parameters: list[Array]) -> None:
        with alone_with(self.model, self):
            self._set_weights(parameters)

    def _set_weights(self, parameters: list[Array]) -> None:
        weights = self._weights()
        check_shapes([p.shape for p in parameters], {name: tuple(weight.shape) for name, weight in weights.items()})
        for variable, array in zip(weights.values(), parameters, strict=True):
            variable.assign(array)

    def _weights(self) -> dict[str, Any]:
        """Give the weights that are the federation's, by their names."""
        named = keras_variables(self.model)
        if not self._names:
            trained = {id(variable) for variable in self.model.trainable_weights}
            of_training = [name for name, variable in named.items() if id(variable) in trained]
            self._names = chosen(self._federated, list(named), of_training)
            for name in self._names:
                if (dtype := str(named[name].dtype)) not in DTYPES:
                    raise ConfigError(f"tensor {name!r}", dtype, not_carried(name))
        return {name: named[name] for name in self._names}

    def train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        with alone_with(self.model, self):
            return self._train(parameters, config)

    def _train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        only(config, self.train_keys)
        budget = self._budget(config)
        self._set_weights(parameters)
        rng = generator_of(self._rng, self.task_seed)
        reseed_dropout(self.model, rng)
        x, y, weights = _parts("train_data", self.train_data)
        batch_size, shuffle = budget.batch_size, isinstance(self.train_data, tuple)  # batches have their own order
        if batch_size is not None and can_be_gathered((x, y, weights)):  # otherwise, Keras draws the order
            batches = keras_batches((x, y, weights), batch_size, rng)
            x, y, weights, batch_size, shuffle = batches, None, None, None, False
        with (
            _learning_rate(self.model, learning_rate_of(config, self._schedule)),
            keras_clipping(self.model, max_grad_norm_of(config)),
            keras_proximal_term(self.model, checked_mu(config.get("proximal_mu", 0))),
        ):
            history = self.model.fit(
                x,
                y,
                sample_weight=weights,
                batch_size=batch_size,
                epochs=budget.num_epochs,
                shuffle=shuffle,
                callbacks=[keras_budget_callback(budget)],
                verbose=0,
            ).history
        metrics = {name: values[-1] for name, values in history.items()}
        own = set(map(id, self.model.trainable_weights)) - set(map(id, self._weights().values()))
        if own:
            metrics |= personal_metrics(self._measured({}))
        return self.get_weights(), metrics, budget.metadata()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        with alone_with(self.model, self):
            return self._evaluate(parameters, config)

    def _evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        only(config, {"batch_size", "metrics", "round_number"})
        self._set_weights(parameters)
        return self._measured(config)

    def _measured(self, config: Config) -> Metrics:
        """Measure the model, as it is, on the test data."""
        batch_size = whole_number(config, "batch_size", 32) if isinstance(self.test_data, tuple) else None
        if batch_size is None and "batch_size" in config:
            raise ConfigError("config['batch_size']", config["batch_size"], "no such key: the data comes in batches")
        x, y, weights = _parts("test_data", self.test_data)
        measured: Metrics = self.model.evaluate(
            x, y, batch_size=batch_size, sample_weight=weights, return_dict=True, verbose=0
        )
        return measured | {NUM_EXAMPLES: self._count_test_examples()}

    def state(self) -> bytes:
        """Give what stays with the learner: its own weights, the optimizer's momentum, and what `seed` draws next."""
        with alone_with(self.model, self):
            return state_of_keras(self.model, self._weights().keys(), self._rng)

    def restore(self, state: bytes) -> None:
        with alone_with(self.model, self):
            restore_keras(state, self.model, self._weights().keys(), self._rng)

    def _count_test_examples(self) -> int:
        if self._num_test_examples is None:
            data = self.test_data
            if isinstance(data, tuple):
                self._num_test_examples = count_rows("test_data", data[0])
            else:
                self._num_test_examples = count_in_batches(data)
        return self._num_test_examples

    def _budget(self, config: Config) -> BatchBudget:
        assert self.num_training_examples is not None
        num_batches: int | None = None
        if not isinstance(self.train_data, tuple):
            try:
                num_batches = len(self.train_data)  # type: ignore[arg-type]
            except TypeError as error:
                allowed = "data with a length, such as a Dataset after tf.data.experimental.assert_cardinality"
                raise ConfigError("train_data", self.train_data, allowed) from error
        return BatchBudget(
            config,
            num_examples=self.num_training_examples,
            batches_per_epoch=num_batches,
            is_cancelled=lambda: self.is_cancelled,
        )


def _parts(field: str, data: Any) -> tuple[Any, Any, Any]:
    """Give `x`, `y` and `sample_weight` of `fit`; of data that comes in batches, it is all in the first."""
    if not isinstance(data, tuple):
        return data, None, None
    if len(data) not in (2, 3):
        allowed = "(x, y), (x, y, sample_weight), or data in batches; several inputs are ([a, b], y)"
        raise ConfigError(field, f"a tuple of {len(data)}", allowed)
    return (*data, None)[:3]


@contextmanager
def _learning_rate(model: keras.Model, rate: float | None) -> Iterator[None]:
    """Set the rate that a task asks for, for that task only."""
    if rate is None:
        yield
        return
    own = float(model.optimizer.learning_rate)
    with suppress(TypeError, AttributeError):  # a schedule, or a function, cannot be set
        model.optimizer.learning_rate = rate
    if not isclose(float(model.optimizer.learning_rate), rate, rel_tol=1e-6):
        raise ConfigError("config['learning_rate']", rate, "no such key: the optimizer has a schedule")
    try:
        yield
    finally:
        model.optimizer.learning_rate = own
