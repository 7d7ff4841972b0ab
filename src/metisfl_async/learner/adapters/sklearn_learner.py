"""A learner around an estimator of scikit-learn that learns batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.frames import numbers_of
from metisfl_async.learner.adapters.needed import needed
from metisfl_async.learner.adapters.options import (
    KEYS,
    check_schedule,
    check_shapes,
    generator_of,
    learning_rate_of,
    only,
)
from metisfl_async.learner.learner import Config, Learner

if TYPE_CHECKING:
    from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor

__all__ = ["SklearnLearner"]

WEIGHTS = ("coef_", "intercept_")


class SklearnLearner(Learner):
    """Trains a linear model of scikit-learn with `partial_fit`. Its weights are ``coef_`` and ``intercept_``.

    Needs scikit-learn: ``pip install scikit-learn``.

    Parameters
    ----------
    model : SGDClassifier, SGDRegressor or Perceptron
        Without ``average``. If it is not fitted, its weights start at zero. Its count of steps, from which schedules
        compute the learning rate, stays with the learner.
    train_data, test_data : tuple (x, y)
        Features, shape (n, m), an array, a frame of pandas, or a sparse matrix in CSR form, and labels or targets,
        shape (n,). All learners' columns are in one order.
    classes : array of labels
        All classes that any learner has; of classifiers only.
    learning_rate : callable, optional
        From a round's number to the rate (``eta0``) of that round.
    seed : int, optional
        Of the order of training examples. Without one, it follows from the session's seed and the learner's id. NumPy's
        global random generator is not touched.

    Notes
    -----
    `train` takes "batch_size", "epochs", "num_local_updates" and "learning_rate" (``eta0``), and lists "metrics" and
    "metadata" of names that the result must have; `evaluate` "metrics". Other keys are refused. Classifiers measure
    "accuracy", and those that give probabilities the log loss as "loss"; regressors measure the mean squared error as
    "loss". Training is measured on all training data, at its end.
    """

    train_keys: ClassVar[frozenset[str]] = KEYS

    def __init__(
        self,
        model: SGDClassifier | SGDRegressor | Perceptron,
        train_data: tuple[Any, Any],
        test_data: tuple[Any, Any],
        *,
        classes: ArrayLike | None = None,
        learning_rate: Callable[[int], float] | None = None,
        seed: int | None = None,
    ) -> None:
        linear = needed("sklearn.linear_model", "scikit-learn")
        if not isinstance(model, linear.SGDClassifier | linear.SGDRegressor | linear.Perceptron):
            raise ConfigError("model", type(model).__name__, "an SGDClassifier, an SGDRegressor or a Perceptron")
        if getattr(model, "average", False):
            raise ConfigError("model.average", model.average, "False: the average of learners is the federation's work")
        if (classes is None) != isinstance(model, linear.SGDRegressor):
            allowed = "None for a regressor; for a classifier, all labels that any learner has"
            raise ConfigError("classes", classes, allowed)
        check_schedule(learning_rate)
        self._schedule = learning_rate
        self.classes = None if classes is None else np.unique(classes)
        self.train_data = _checked("train_data", train_data, self.classes)
        self.test_data = _checked("test_data", test_data, self.classes)
        super().__init__(num_training_examples=len(self.train_data[1]))
        self.model, self._rng = model, None if seed is None else np.random.default_rng(seed)
        self._draws = model.random_state is None  # it would draw from NumPy's global generator
        if self._draws:
            model.random_state = np.random.RandomState(generator_of(self._rng, None).integers(2**32))
        if not hasattr(model, "coef_"):
            self._initialise()
        if hasattr(model, "feature_names_in_"):  # it was fitted to a frame, and would warn of arrays
            _check_columns(model.feature_names_in_, train_data, test_data)
            del model.feature_names_in_

    def _initialise(self) -> None:
        """Give the model its arrays, from one example that is all zeros, and take back what it made of it."""
        x, _ = self.train_data
        zeros = np.zeros((1, x.shape[1]), np.float32 if x.dtype == np.float32 else np.float64)
        if self.classes is None:
            self.model.partial_fit(zeros, [0.0])
        else:
            self.model.partial_fit(zeros, self.classes[:1], classes=self.classes)
        self.model.t_ = 1.0
        self.set_weights([np.zeros_like(weight) for weight in self.get_weights()])

    def weight_names(self) -> list[str]:
        return list(WEIGHTS)

    def belongings(self) -> dict[Hashable, str]:
        return {id(self.model): "the model"}

    def get_weights(self) -> list[Array]:
        return [np.array(getattr(self.model, name)) for name in WEIGHTS]

    def set_weights(self, parameters: list[Array]) -> None:
        own = self.get_weights()
        shapes = {name: weight.shape for name, weight in zip(WEIGHTS, own, strict=True)}
        check_shapes([p.shape for p in parameters], shapes)
        for name, weight, new in zip(WEIGHTS, own, parameters, strict=True):
            setattr(self.model, name, np.array(new, weight.dtype, order="C"))

    def train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        only(config, self.train_keys)
        x, y = self.train_data
        budget = BatchBudget(config, num_examples=len(y), is_cancelled=lambda: self.is_cancelled)
        self.set_weights(parameters)
        rng = generator_of(self._rng, self.task_seed)
        if self._draws and self._rng is None:
            self.model.random_state = np.random.RandomState(rng.integers(2**32))
        with _learning_rate(self.model, learning_rate_of(config, self._schedule)):
            for rows in budget.shuffled_rows(rng):
                self.model.partial_fit(x[rows], y[rows])
        return self.get_weights(), self._measured(x, y), budget.metadata()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        only(config, {"metrics", "round_number"})
        self.set_weights(parameters)
        return self._measured(*self.test_data) | {NUM_EXAMPLES: len(self.test_data[1])}

    def _measured(self, x: Any, y: Array) -> Metrics:
        from sklearn.metrics import log_loss, mean_squared_error

        if self.classes is None:
            return {"loss": mean_squared_error(y, self.model.predict(x))}
        metrics: Metrics = {"accuracy": self.model.score(x, y)}
        if hasattr(self.model, "predict_proba"):
            metrics["loss"] = log_loss(y, self.model.predict_proba(x), labels=self.classes)
        return metrics


def _checked(field: str, data: Any, classes: Array | None) -> tuple[Any, Array]:
    if not isinstance(data, tuple) or len(data) != 2 or not hasattr(data[0], "shape") or len(data[0].shape) != 2:
        raise ConfigError(field, type(data).__name__, "a tuple (x, y), with x of shape (n, m)")
    x, y = numbers_of(field, data[0]), np.asarray(data[1])
    if y.ndim == 2 and y.shape[1] == 1:  # a frame of one column
        y = y[:, 0]
    if x.shape[0] != len(y) or len(y) == 0:
        raise ConfigError(field, f"{x.shape[0]} rows and {len(y)} labels", "as many labels as rows, and at least one")
    if classes is not None and len(strange := np.setdiff1d(y, classes)):
        raise ConfigError(f"the labels of {field}", strange.tolist(), f"those in classes: {classes.tolist()}")
    return x, y


def _check_columns(names: Any, *data: tuple[Any, Any]) -> None:
    for x, _ in data:
        if hasattr(x, "columns") and list(x.columns) != list(names):
            raise ConfigError("the columns of a frame", list(x.columns), f"{list(names)}, as the model was fitted to")


@contextmanager
def _learning_rate(model: Any, rate: float | None) -> Iterator[None]:
    """Set the rate that a task asks for, for that task only."""
    own = model.eta0
    if rate is not None:
        if model.learning_rate not in ("constant", "invscaling", "adaptive"):
            allowed = f"no such key: learning_rate={model.learning_rate!r} of the model computes its own"
            raise ConfigError("config['learning_rate']", rate, allowed)
        model.eta0 = rate
    try:
        yield
    finally:
        model.eta0 = own
