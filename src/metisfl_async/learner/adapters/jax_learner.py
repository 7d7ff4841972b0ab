"""A learner around a pytree of JAX's and a function that trains it for one batch."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, TypeAlias

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics, weighted_means
from metisfl_async.core.model import DTYPES, Array
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.examples import count_rows, first_leaf, mapped
from metisfl_async.learner.adapters.federated import Federated, check_federated, chosen, not_carried
from metisfl_async.learner.adapters.needed import needed
from metisfl_async.learner.adapters.options import (
    KEYS,
    check_schedule,
    check_shapes,
    generator_of,
    learning_rate_of,
    only,
    whole_number,
)
from metisfl_async.learner.adapters.packing import packed, unpacked
from metisfl_async.learner.learner import Config, Learner

__all__ = ["JaxLearner"]

Tree: TypeAlias = Any  # a pytree
TrainStep = Callable[..., tuple[Tree, Tree, Mapping[str, Any]]]
EvalStep = Callable[[Tree, Any], Mapping[str, Any]]


class JaxLearner(Learner):
    """Trains a pytree with a `train_step`, of plain JAX or with Flax and Optax; its weights are the leaves.

    Needs JAX: ``pip install jax``.

    Parameters
    ----------
    params : pytree of arrays, or callable
        The model, such as the variables of Flax; or a function that makes it of a random key, which draws with the
        seed and is called where the model is first needed. The arrays are copied, so learners may be given the same.
    train_data, test_data : tuple or dict of arrays, or batches
        What a batch is made of, each array with a row for an example; or something with a length that gives batches,
        again in each epoch.
    train_step : callable
        From (params, state, batch) to new ones of the first two, and a dict of what was measured, means over the batch.
        Compile it with `jax.jit`. If it has a parameter ``learning_rate``, it is given one by that name.
    eval_step : callable
        From (params, batch) to a dict of means over the batch.
    state : pytree, or callable
        What else the step needs and gives, such as what an optimizer remembers; or a function that makes it of the
        params, such as ``optimizer.init``. It stays with the learner.
    federated : {"all", "trainable"}, list of str, or callable
        Which leaves are the federation's: all; all but the `untrained`; those whose names are these, or match these
        patterns (``"params/Dense_0/*"``); or those for whose name the function gives true. The rest stays with the
        learner. `weight_names()` gives the names: the keys on the way to a leaf, with slashes.
    untrained : sequence of str
        Names, or patterns, of leaves that no gradient steps, such as ``["batch_stats/*"]``.
    learning_rate : callable, optional
        From a round's number to the rate of that round, where `train_step` has a parameter for it.
    num_training_examples : int, optional
        Needed for data in batches, whose examples are not counted.
    seed : int, optional
        Of the order of training examples, and of the key for `params`. Without one, it follows from the session's seed
        and the learner's id.

    Notes
    -----
    `train` takes "batch_size", "epochs", "num_local_updates", and "learning_rate" where the step has it, `evaluate`
    "batch_size"; also lists "metrics" and "metadata" of names that the result must have. Other keys are refused. The
    last batch of an epoch may be smaller, for which JAX compiles the step once more. Metrics of training are means over
    the batches of the last epoch, or of as many batches.
    """

    train_keys: ClassVar[frozenset[str]] = KEYS

    def __init__(
        self,
        params: Tree,
        train_data: object,
        test_data: object,
        *,
        train_step: TrainStep,
        eval_step: EvalStep,
        state: Tree = None,
        federated: Federated = "all",
        untrained: Sequence[str] = (),
        learning_rate: Callable[[int], float] | None = None,
        num_training_examples: int | None = None,
        seed: int | None = None,
    ) -> None:
        needed("jax", "jax")
        check_federated(federated)
        check_schedule(learning_rate)
        for name, function in (("train_step", train_step), ("eval_step", eval_step)):
            if not callable(function):
                raise ConfigError(name, function, "a function")
        self._takes_rate = "learning_rate" in inspect.signature(train_step).parameters
        if learning_rate is not None and not self._takes_rate:
            raise ConfigError("learning_rate", learning_rate, "None: train_step has no parameter learning_rate")
        self.train_data, self.test_data = _checked("train_data", train_data), _checked("test_data", test_data)
        if _is_arrays(train_data):
            num_training_examples = count_rows("train_data", self.train_data)
        elif num_training_examples is None:
            raise ConfigError("num_training_examples", None, "a number, for training data that comes in batches")
        super().__init__(num_training_examples=num_training_examples)
        self._train_step, self._eval_step, self._schedule = train_step, eval_step, learning_rate
        self._federated, self._untrained = federated, list(untrained)
        self._seed, self._rng = seed, None if seed is None else np.random.default_rng(seed)
        self._make_params: Callable[[Any], Tree] | None = params if callable(params) else None
        self._state = state
        self._params: dict[str, Any] | None = None  # the leaves by their names, once they are made
        self._tree: Any = None  # what puts them together
        if self._make_params is None:
            self._take(params)

    @property
    def is_made(self) -> bool:  # type: ignore[override]
        return self._params is not None

    @property
    def params(self) -> Tree:
        """The model, with what the learner keeps for itself."""
        import jax

        return jax.tree_util.tree_unflatten(self._tree, list(self._leaves().values()))

    def _take(self, params: Tree) -> None:
        """Take up a model that was just made."""
        import jax

        found, self._tree = jax.tree_util.tree_flatten_with_path(params)
        named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
        for pattern in self._untrained:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise ConfigError("untrained", pattern, f"what is in the model: {', '.join(list(named)[:20])}")
        trained = [name for name in named if not self._is_untrained(name)]
        self._names = chosen(self._federated, list(named), trained)
        self._params = {name: jax.numpy.array(leaf) for name, leaf in named.items()}
        for name in self._names:
            if (dtype := str(self._params[name].dtype)) not in DTYPES:
                raise ConfigError(f"tensor {name!r}", dtype, not_carried(name))
        if callable(self._state):
            self._state = self._state(self.params)
        else:
            self._state = jax.tree_util.tree_map(jax.numpy.array, self._state)

    def _leaves(self) -> dict[str, Any]:
        if self._params is None:
            import jax

            assert self._make_params is not None
            seed = self.task_seed if self._seed is None else self._seed
            self._take(self._make_params(jax.random.key(int(np.random.default_rng(seed).integers(2**31)))))
        assert self._params is not None
        return self._params

    def _is_untrained(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._untrained)

    def weight_names(self) -> list[str]:
        self._leaves()
        return self._names

    def untrained_names(self) -> list[str]:
        return [name for name in self.weight_names() if self._is_untrained(name)]

    def get_weights(self) -> list[Array]:
        leaves = self._leaves()
        return [np.array(leaves[name]) for name in self._names]

    def set_weights(self, parameters: list[Array]) -> None:
        import jax

        leaves = self._leaves()
        check_shapes([p.shape for p in parameters], {name: leaves[name].shape for name in self._names})
        given = dict(zip(self._names, parameters, strict=True))
        # Copies: where JAX can, it would go on to read the memory that the next model is received in.
        self._params = leaves | {name: jax.numpy.array(array) for name, array in given.items()}

    def train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        only(config, self.train_keys)
        assert self.num_training_examples is not None
        if "learning_rate" in config and not self._takes_rate:
            allowed = "no such key: train_step has no parameter learning_rate"
            raise ConfigError("config['learning_rate']", config["learning_rate"], allowed)
        budget = BatchBudget(
            config,
            num_examples=self.num_training_examples,
            batches_per_epoch=None if _is_arrays(self.train_data) else len(self.train_data),
            is_cancelled=lambda: self.is_cancelled,
        )
        self.set_weights(parameters)
        rate = learning_rate_of(config, self._schedule)
        options = {} if rate is None else {"learning_rate": np.float32(rate)}
        measured: deque[tuple[float, Metrics]] = deque(maxlen=budget.batches_per_epoch)
        params = self.params
        for batch in self._batches(budget):
            found = self._train_step(params, self._state, batch, **options)
            if not isinstance(found, tuple) or len(found) != 3:
                raise ConfigError("train_step()", type(found).__name__, "a tuple (params, state, metrics)")
            params, self._state, metrics = found
            self._keep(params)
            measured.append((len(first_leaf(batch)), _plain(metrics)))
        return self.get_weights(), weighted_means(measured), budget.metadata()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        only(config, {"batch_size", "metrics", "round_number"})
        if not _is_arrays(self.test_data) and "batch_size" in config:
            raise ConfigError("config['batch_size']", config["batch_size"], "no such key: the data comes in batches")
        self.set_weights(parameters)
        params = self.params
        measured = [
            (len(first_leaf(batch)), _plain(self._eval_step(params, batch)))
            for batch in _in_order(self.test_data, whole_number(config, "batch_size", 32))
        ]
        return weighted_means(measured) | {NUM_EXAMPLES: sum(count for count, _ in measured)}

    def state(self) -> bytes:
        """Give what stays with the learner: its own leaves, the state of `train_step`, and what `seed` draws next."""
        import jax

        arrays = {f"own/{name}": leaf for name, leaf in self._leaves().items() if name not in self._names}
        arrays |= {f"state/{index}": leaf for index, leaf in enumerate(jax.tree_util.tree_leaves(self._state))}
        return packed({name: np.asarray(leaf) for name, leaf in arrays.items()}, self._rng)

    def restore(self, state: bytes) -> None:
        import jax

        leaves, found = self._leaves(), unpacked(state, self._rng)
        own = {name: found[f"own/{name}"] for name in leaves if name not in self._names}
        self._params = leaves | {name: jax.numpy.array(array, leaves[name].dtype) for name, array in own.items()}
        remembered, tree = jax.tree_util.tree_flatten(self._state)
        given = (jax.numpy.array(found[f"state/{index}"], leaf.dtype) for index, leaf in enumerate(remembered))
        self._state = jax.tree_util.tree_unflatten(tree, given)

    def _keep(self, params: Tree) -> None:
        """Hold what a step gave: it may have taken the memory of what it was given."""
        import jax

        leaves, tree = jax.tree_util.tree_flatten(params)
        if tree != self._tree:
            raise ConfigError("the params of train_step()", str(tree), f"as they were given: {self._tree}")
        self._params = dict(zip(self._leaves(), leaves, strict=True))

    def _batches(self, budget: BatchBudget) -> Iterator[Any]:
        if not _is_arrays(self.train_data):
            return budget.batches(self.train_data)
        rng = generator_of(self._rng, self.task_seed)
        return (_rows(self.train_data, rows) for rows in budget.shuffled_rows(rng))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tree": self.params if self.is_made else None}  # which pickles

    def __setstate__(self, state: dict[str, Any]) -> None:
        import jax

        self.__dict__.update(state | {"_tree": jax.tree_util.tree_structure(state["_tree"])})


def _is_arrays(data: object) -> bool:
    return isinstance(data, tuple | Mapping)


def _checked(field: str, data: Any) -> Any:
    if _is_arrays(data):
        data = mapped(data, np.asarray)
        count_rows(field, data)
    elif not (hasattr(data, "__len__") and hasattr(data, "__iter__")):
        raise ConfigError(field, type(data).__name__, "arrays in a tuple or a dict, or batches with a length")
    return data


def _in_order(data: Any, batch_size: int) -> Iterator[Any]:
    if not _is_arrays(data):
        yield from data
        return
    for start in range(0, len(first_leaf(data)), batch_size):
        yield _rows(data, slice(start, start + batch_size))


def _rows(data: Any, rows: Array | slice) -> Any:
    return mapped(data, lambda array: array[rows])


def _plain(metrics: Mapping[str, Any]) -> Metrics:
    return {name: float(value) for name, value in metrics.items()}
