"""No rule's model is published that is not finite, and the rule goes on from the one before."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from rules import A, B, fold, of, started

from metisfl_async.core.errors import NoModel
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import write_rounded
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, made
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdam, FedAvgM

FAR: dict[str, tuple[type | np.dtype[np.generic], float]] = {
    "float16": (np.float16, 6e4),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), 3e38),
    "float32": (np.float32, 3e38),
    "float64": (np.float64, 9e287),
}
STEPS: list[Callable[[], AggregationRule]] = [
    lambda: FedAvgM(learning_rate=4.0),
    lambda: FedBuff(1, learning_rate=4.0),
    lambda: FedAdam(learning_rate=1e300, tau=1e-3),
]


@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize("new", STEPS, ids=lambda new: type(new()).__name__)
def test_a_step_beyond_what_the_dtype_holds_makes_no_model(new: Callable[[], AggregationRule], dtype: str) -> None:
    kind, far = FAR[dtype]

    def one(value: float) -> Model:
        return Model.from_arrays([np.array([1.0], np.float32), np.array([value]).astype(kind)])

    first = one(0.0)
    rule, fresh = started(new(), first), started(new(), first)
    fold(rule, one(far), 1.0)
    with pytest.raises(NoModel, match=f"{type(rule).__name__} .* not finite"):
        made(rule, 1)
    rule.take_back(first)
    for each in (rule, fresh):
        fold(each, Model.from_arrays([np.array([1.0], np.float32), np.array([1e-305]).astype(kind)]), 1.0)
    np.testing.assert_array_equal(made(rule, 1).buffer, made(fresh, 1).buffer)  # nothing of it is left


@pytest.mark.parametrize("new", [FedAvg, FedRec, FedAsync], ids=lambda new: new.__name__)
def test_a_mean_of_what_a_dtype_holds_is_held_by_it(new: Callable[[], AggregationRule]) -> None:
    largest = float(np.finfo(np.float16).max)
    first = Model.from_arrays([np.full(3, largest, np.float16)])
    rule = started(new(), first)
    for weight, learner in ((0.1, A), (0.7, B)):
        fold(rule, first, weight, learner)
    np.testing.assert_array_equal(made(rule, 1).buffer, first.buffer)
    rule.take_back(first)
    fold(rule, first, 3.0)
    np.testing.assert_array_equal(made(rule, 1).buffer, first.buffer)


def test_fedbuff_takes_back_the_model_that_cannot_be_published_and_keeps_those_before() -> None:
    rule = started(FedBuff(1, exponent=0.0), of(1.0))
    fold(rule, of(3.0), 1.0)
    latest = made(rule, 1)
    fold(rule, of(100.0), 1.0)
    made(rule, 2)
    rule.take_back(latest)
    fold(rule, of(2.0), 1.0, staleness=1)  # from version 0
    assert made(rule, 2).arrays()[0] == 3.0 + 2.0 - 1.0


@pytest.mark.parametrize("out", [np.zeros(2, np.int8), np.zeros(2, bool)], ids=lambda out: str(out.dtype))
def test_what_is_not_a_number_is_no_integer_either(out: Array) -> None:
    with pytest.raises(NoModel, match=f"a tensor of {out.dtype.name} would hold what is not a number"):
        write_rounded(out, np.array([1.0, np.nan]))
    write_rounded(out, np.array([np.inf, -np.inf]))
    assert out[0] == (127 if out.dtype == np.int8 else True)
