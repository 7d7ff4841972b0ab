"""A learner that grows gradient-boosted trees with XGBoost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.tree_bagging import NUM_NEW, NUM_TREES
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.frames import numbers_of
from metisfl_async.learner.adapters.needed import needed
from metisfl_async.learner.adapters.options import (
    check_schedule,
    check_shapes,
    generator_of,
    learning_rate_of,
    only,
    whole_number,
)
from metisfl_async.learner.adapters.trees import MAX_DEPTH, checked_trees, empty_trees, model_of, put_trees
from metisfl_async.learner.learner import Config, Learner

if TYPE_CHECKING:
    import xgboost

__all__ = ["XGBoostLearner"]

FIXED = {"booster": "gbtree", "num_parallel_tree": 1, "multi_strategy": "one_output_per_tree"}


class XGBoostLearner(Learner):
    """Grows trees on the learner's data, on top of the global model's; for ``aggregation_rule="TreeBagging"``.

    Needs XGBoost: ``pip install xgboost``, or ``xgboost-cpu``, which is smaller.

    Parameters
    ----------
    params : mapping
        XGBoost's own, such as ``{"objective": "binary:logistic", "max_depth": 4, "eval_metric": ["error"]}``. All
        learners need the same. Trees have a ``max_depth`` (1 to 12; XGBoost's 6 if it is not given), and
        ``base_score`` is 0.5 unless it is given, since XGBoost would compute another one of each learner's labels.
    train_data, test_data : tuple (x, y) or (x, y, sample_weight)
        Features, shape (n, m), an array, a frame of pandas with numbers, or a sparse matrix, and labels or targets,
        shape (n,). NaN is a missing value. All learners' columns are in one order.
    max_trees : int
        How many trees the global model has room for: learners times trees of each in a round times rounds. A model has
        this size from the first round on, ``13 * 2**(max_depth + 1)`` bytes a tree.
    learning_rate : callable, optional
        From a round's number to the rate (``eta``) of that round.
    seed : int, optional
        Of what XGBoost draws (``subsample``, ``colsample_bytree``). Without one, it follows from the session's seed and
        the learner's id.

    Notes
    -----
    `train` takes "num_boost_round", how many rounds of boosting (1), and "learning_rate" (``eta``), and lists "metrics"
    and "metadata" of names that the result must have; `evaluate` "metrics". Other keys are refused. Measured are
    ``eval_metric``, by XGBoost's names. `booster` has the global model, to predict with and to save.
    """

    train_keys: ClassVar[frozenset[str]] = frozenset(
        {"num_boost_round", "learning_rate", "round_number", "metrics", "metadata"}
    )

    def __init__(
        self,
        params: Mapping[str, Any],
        train_data: tuple[Any, ...],
        test_data: tuple[Any, ...],
        *,
        max_trees: int,
        learning_rate: Callable[[int], float] | None = None,
        seed: int | None = None,
    ) -> None:
        needed("xgboost", "xgboost")
        integer("max_trees", max_trees, 1)
        check_schedule(learning_rate)
        self._schedule, self._params = learning_rate, _checked_params(params)
        self.train_data, self.test_data = _checked("train_data", train_data), _checked("test_data", test_data)
        super().__init__(num_training_examples=self.train_data[0].shape[0])
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._num_groups = max(1, int(self._params.get("num_class", 1)))
        self._arrays = empty_trees(max_trees, self._params["max_depth"])
        self._matrices: dict[str, xgboost.DMatrix] = {}  # of the data, once they are made

    @property
    def booster(self) -> xgboost.Booster:
        """The global model, as the learner had it last."""
        import xgboost

        empty = xgboost.train(self._params, self._matrix("train_data"), 0)
        booster = xgboost.Booster(self._params)
        booster.load_model(model_of(self._arrays, json.loads(empty.save_raw("json"))))
        return booster

    def weight_names(self) -> list[str]:
        return list(self._arrays)

    def get_weights(self) -> list[Array]:
        return [array.copy() for array in self._arrays.values()]

    def set_weights(self, parameters: list[Array]) -> None:
        check_shapes([p.shape for p in parameters], {name: array.shape for name, array in self._arrays.items()})
        num_features = self.train_data[0].shape[1]
        arrays = checked_trees(parameters, self._arrays, num_features, self._num_groups)
        self._arrays = {name: array.copy() for name, array in arrays.items()}

    def train(self, parameters: list[Array], config: Config) -> tuple[list[Array], Metrics, dict[str, Json]]:
        only(config, self.train_keys)
        self.set_weights(parameters)
        num_rounds, count = whole_number(config, "num_boost_round", 1), int(self._arrays[NUM_TREES])
        room = len(self._arrays["group"])
        if count + num_rounds * self._num_groups > room:
            allowed = f"at least {count + num_rounds * self._num_groups}, for this round's trees"
            raise ConfigError("max_trees", room, allowed)
        assert self.num_training_examples is not None
        budget = BatchBudget(
            {"num_local_updates": num_rounds},
            num_examples=self.num_training_examples,
            batches_per_epoch=1,
            is_cancelled=lambda: self.is_cancelled,
        )
        booster, data = self.booster, self._matrix("train_data")
        rate = learning_rate_of(config, self._schedule)
        booster.set_param({"seed": int(generator_of(self._rng, self.task_seed).integers(2**31))})
        booster.set_param({} if rate is None else {"learning_rate": rate})
        for _ in budget.batches([data]):
            booster.update(data, budget.num_completed)
        grown = {name: array.copy() for name, array in self._arrays.items()}
        grown[NUM_NEW][...] = put_trees(grown, count, json.loads(booster.save_raw("json")))
        return list(grown.values()), _measured(booster, data), budget.metadata()

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        only(config, {"metrics", "round_number"})
        self.set_weights(parameters)
        return _measured(self.booster, self._matrix("test_data")) | {NUM_EXAMPLES: self.test_data[0].shape[0]}

    def _matrix(self, field: str) -> xgboost.DMatrix:
        import xgboost

        if field not in self._matrices:
            x, y, weights = getattr(self, field)
            nthread = self._params.get("nthread")
            self._matrices[field] = xgboost.DMatrix(x, label=y, weight=weights, nthread=nthread)
        return self._matrices[field]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_matrices": {}}  # they cannot be pickled


def _checked_params(params: Mapping[str, Any]) -> dict[str, Any]:
    for name, only_value in FIXED.items():
        if params.get(name, only_value) != only_value:
            raise ConfigError(f"params[{name!r}]", params[name], repr(only_value))
    if "objective" not in params:
        raise ConfigError("params", sorted(params), "an 'objective', such as 'binary:logistic'")
    depth = params.get("max_depth", 6)
    integer("params['max_depth']", depth, 1)
    if depth > MAX_DEPTH:
        raise ConfigError("params['max_depth']", depth, f"1 to {MAX_DEPTH}; a tree's room doubles with each")
    return {"base_score": 0.5, **params, "max_depth": depth}


def _checked(field: str, data: Any) -> tuple[Any, Any, Any]:
    if not isinstance(data, tuple) or len(data) not in (2, 3) or len(getattr(data[0], "shape", ())) != 2:
        raise ConfigError(field, type(data).__name__, "a tuple (x, y) or (x, y, sample_weight), with x of shape (n, m)")
    x, y, weights = (*data, None)[:3]
    lengths = [x.shape[0], *(len(part) for part in (y, weights) if part is not None)]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise ConfigError(f"the lengths of {field}", lengths, "as many labels as rows, and at least one")
    return numbers_of(field, x), np.asarray(y), weights


def _measured(booster: Any, data: Any) -> Metrics:
    """Have XGBoost measure; it says so as ``"[0]\\tdata-logloss:0.1\\tdata-error:0.0"``."""
    parts = booster.eval(data, "data").split("\t")[1:]
    found = (part.removeprefix("data-").rpartition(":") for part in parts)
    return {name: float(value) for name, _, value in found}
