"""For those who write `train` around `keras.Model.fit`: its batches counted, and FedProx; and names of weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.options import checked_mu

if TYPE_CHECKING:
    import keras

__all__ = ["array_of_variable", "keras_budget_callback", "keras_clipping", "keras_proximal_term", "keras_variables"]


def keras_budget_callback(budget: BatchBudget) -> keras.callbacks.Callback:
    """Make a callback that ends `fit` when a budget is spent, exactly after its last batch.

    Needs Keras: ``pip install tensorflow``. Give `fit` the budget's numbers as well::

        model.fit(
            x, y, batch_size=budget.batch_size, epochs=budget.num_epochs, callbacks=[keras_budget_callback(budget)]
        )

    Raises
    ------
    ConfigError
        From `fit`, if the model is compiled with ``steps_per_execution > 1`` and the budget does not end where an
        execution does.
    """
    import keras

    class BudgetCallback(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: object = None) -> None:
            steps, rest = self.model.steps_per_execution, budget.num_batches % budget.batches_per_epoch
            if rest % steps != 0:
                allowed = f"1, or a number that divides {rest}, the batches in the last epoch; it stops only there"
                raise ConfigError("steps_per_execution", steps, allowed)
            self.steps, self.left_in_epoch = steps, 0
            budget.start()

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.left_in_epoch = budget.batches_per_epoch

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            done = max(1, min(self.steps, self.left_in_epoch))  # an epoch's last execution may be a short one
            self.left_in_epoch -= done
            budget.count(done)
            if budget.is_spent:
                self.model.stop_training = True  # fit looks at it after every batch

    return BudgetCallback()


@contextmanager
def keras_proximal_term(model: keras.Model, mu: float) -> Iterator[None]:
    """Train with FedProx: inside, a model's loss is ``F(w) + mu/2 * ||w - w_now||**2``.

    ``w`` are the trainable weights and ``w_now`` their values on entering, so set the global weights first. The term is
    a regularizer of each weight, beside its own: `fit` and `train_on_batch` compute its gradient in every step, with
    any optimizer, and the losses that they report have it in them. A `train_step` of your own must add ``self.losses``.

    Needs Keras on TensorFlow: ``pip install tensorflow``.

    Parameters
    ----------
    model : keras.Model
        Built and compiled.
    mu : float
        How strongly the weights are held; 0 leaves them free.

    Raises
    ------
    ConfigError
        If `mu` is not a finite number >= 0, or Keras runs on another backend.

    References
    ----------
    Li et al., "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127.
    """
    import keras

    mu = checked_mu(mu)
    weights = model.trainable_variables
    if mu != 0:
        if keras.backend.backend() != "tensorflow":  # JAX would compile the first w_now in, for ever
            raise ConfigError("proximal_mu", mu, f"0 with Keras on {keras.backend.backend()}; it needs TensorFlow")
        if free := [weight for weight in weights if not isinstance(weight.regularizer, _Proximal)]:
            for weight in free:
                weight.regularizer = _Proximal(weight)
            model.make_train_function(force=True)  # one that was traced before does not have the term
    held = [(weight, weight.regularizer) for weight in weights if isinstance(weight.regularizer, _Proximal)]
    for weight, proximal in held:
        proximal.anchor.assign(weight)
        proximal.mu.assign(mu)
    try:
        yield
    finally:
        for _, proximal in held:
            proximal.mu.assign(0.0)


@contextmanager
def keras_clipping(model: keras.Model, max_norm: float | None) -> Iterator[None]:
    """Shorten the gradients of all weights together to a norm, in place of the optimizer's own ``global_clipnorm``."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # of one that scales the loss
    if max_norm is not None and optimizer.clipnorm:
        raise ConfigError("config['max_grad_norm']", max_norm, "no such key: the optimizer has a clipnorm of its own")
    before = optimizer.global_clipnorm
    if max_norm is None or before == max_norm:
        yield
        return
    optimizer.global_clipnorm = max_norm
    model.make_train_function(force=True)  # one that was traced before has the old norm in it
    try:
        yield
    finally:
        optimizer.global_clipnorm = before
        model.make_train_function(force=True)


class _Proximal:
    """Regularizes one weight. It stays there, so that the training step is traced once and not in every round."""

    def __init__(self, weight: Any) -> None:
        import keras

        self.own: Callable[[Any], Any] | None = weight.regularizer
        self.anchor = keras.Variable(keras.ops.convert_to_tensor(weight), trainable=False, dtype=weight.dtype)
        self.mu = keras.Variable(0.0, trainable=False, dtype=weight.dtype)

    def __call__(self, weight: Any) -> Any:
        import keras

        term = self.mu / 2 * keras.ops.sum(keras.ops.square(weight - self.anchor))
        return term if self.own is None else term + self.own(weight)


def keras_variables(model: keras.Model) -> dict[str, Any]:
    """Give a built model's weights in their order, by names that are the same however many models a process has made.

    Keras numbers layers that were not given a name through the whole process; here they are numbered through the model.
    """
    inside = {layer.name for layer in model._flatten_layers(include_self=False)}
    made_up: dict[str, str] = {}  # what Keras called a layer that has no name of its own: the name without its number
    for layer in model._flatten_layers():
        base = re.sub(r"(?<=.)([A-Z][a-z]+)|(?<=[a-z])([A-Z])", r"_\1\2", type(layer).__name__).lower()
        if re.fullmatch(rf"{re.escape(base)}(_\d+)?", layer.name):
            made_up[layer.name] = base
    named: dict[str, Any] = {}
    numbered: dict[str, str] = {}
    counts: dict[str, int] = {}
    for variable in model.weights:
        parts = variable.path.split("/")
        if len(parts) > 1 and parts[0] not in inside:  # the model that the layer was built in, this one as a rule
            del parts[0]
        for place, part in enumerate(parts):
            if part in made_up and part not in numbered:
                base = made_up[part]
                number = counts[base] = counts.get(base, -1) + 1
                numbered[part] = f"{base}_{number}" if number else base
            parts[place] = numbered.get(part, part)
        name = "/".join(parts)
        while name in named:  # two layers that were given one name
            name += "_again"
        named[name] = variable
    return named


def array_of_variable(variable: Any) -> Array:
    """Copy a variable, in its own dtype."""
    return np.array(variable.numpy())
