from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import MAX_ARRAY, MAX_DEPTH, checked_json, checked_metrics, unwrapped, weighted_means


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, Fraction(1, 2)),
        *(np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5), ml_dtypes.bfloat16(0.5)),
        *(np.array(0.5), np.array(0.5, ml_dtypes.bfloat16)),
    ],
)
def test_a_metric_may_be_any_number(value: object) -> None:
    metrics = checked_metrics({"loss": value}, "metrics")
    assert metrics == {"loss": 0.5}
    assert type(metrics["loss"]) is float


@pytest.mark.parametrize("value", [1, True, np.int8(1), np.uint64(1), np.bool_(True), np.array(1), np.array(True)])
def test_a_metric_may_be_an_integer_or_a_bool(value: object) -> None:
    assert checked_metrics({"correct": value}, "metrics") == {"correct": 1.0}


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32(math.inf)])
def test_an_infinite_metric_stays_infinite(value: float) -> None:
    assert checked_metrics({"loss": value}, "metrics") == {"loss": float(value)}


def test_a_metric_that_is_nan_stays_nan() -> None:
    assert math.isnan(checked_metrics({"loss": math.nan}, "metrics")["loss"])


@pytest.mark.parametrize(
    "value",
    [
        *(None, "0.5", b"0.5", 1j, [0.5], {}),
        *(np.array([0.5]), np.array(1j), np.array("0.5"), np.array(None), np.complex64(1)),
        pytest.param(10**400, id="10**400"),
        pytest.param(Fraction(10**400), id="Fraction(10**400)"),
    ],
)
def test_what_is_no_number_of_a_float_is_refused_as_a_metric_by_name(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_metrics({"fine": 1, "loss": value}, "metrics")
    assert caught.value.field == "metrics['loss']"
    assert caught.value.value is value


@pytest.mark.parametrize("metrics", [None, 0.5, "loss", [("loss", 0.5)]])
def test_metrics_must_be_a_mapping(metrics: object) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_metrics(metrics, "metrics")
    assert (caught.value.field, caught.value.value) == ("metrics", metrics)


@pytest.mark.parametrize("name", [1, b"loss", None, ("a",)])
def test_the_name_of_a_metric_must_be_a_string(name: object) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_metrics({name: 0.5}, "metrics")
    assert (caught.value.field, caught.value.value) == ("a key of metrics", name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=8,
).filter(lambda value: depth_of(value) <= MAX_DEPTH)


def depth_of(value: object) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((1 + depth_of(item) for item in items), default=0)


@given(json_values)
def test_plain_json_comes_back_equal(value: object) -> None:
    assert checked_json(value, "metadata") == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("site"), "site"),
        (ml_dtypes.bfloat16(1.5), 1.5),
        (np.array(7), 7),
        (np.array([[1, 2], [3, 4]], np.int8), [[1, 2], [3, 4]]),
        (np.empty(0), []),
        (("a", (1, None)), ["a", [1, None]]),
        ({"sizes": np.arange(2), "deep": {"x": np.float64(1)}}, {"sizes": [0, 1], "deep": {"x": 1.0}}),
    ],
)
def test_numpy_and_tuples_become_plain_json(value: object, plain: object) -> None:
    assert repr(checked_json(value, "metadata")) == repr(plain)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (b"x", "metadata"),
        (1j, "metadata"),
        ({1}, "metadata"),
        (object, "metadata"),
        (np.complex64(1), "metadata"),
        (np.datetime64("2024-01-01"), "metadata"),
        ({"a": [0, {"b": b"x"}]}, "metadata['a'][1]['b']"),
        (np.array([1j]), "metadata[0]"),
        ({"a": {1: 2}}, "a key of metadata['a']"),
        ({"n": 2**64}, "metadata['n']"),
        ({"n": -(2**63) - 1}, "metadata['n']"),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_place(value: object, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_json(value, "metadata")
    assert caught.value.field == field


def test_nesting_is_allowed_up_to_the_limit() -> None:
    assert checked_json(nested(MAX_DEPTH), "metadata") == nested(MAX_DEPTH)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_deeper_nesting_is_refused(depth: int) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_json(nested(depth), "metadata")
    assert str(MAX_DEPTH) in caught.value.allowed


def test_a_list_or_dict_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    looped: dict[str, Any] = {}
    looped["again"] = looped
    for value in (endless, looped):
        with pytest.raises(ConfigError) as caught:
            checked_json(value, "metadata")
        assert str(MAX_DEPTH) in caught.value.allowed


def test_a_long_key_makes_no_long_place() -> None:
    with pytest.raises(ConfigError) as caught:
        checked_json({"k" * 10**6: b""}, "metadata")
    assert len(caught.value.field) < 200


def test_each_metric_is_averaged_over_those_who_report_it() -> None:
    reports = [(1.0, {"loss": 4.0, "accuracy": 0.5}), (3.0, {"loss": 8.0}), (2.0, {})]
    assert weighted_means(reports) == {"loss": 7.0, "accuracy": 0.5}


def test_no_reports_have_no_means() -> None:
    assert weighted_means([]) == {}


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(-1e9, 1e9)), min_size=1, max_size=6).flatmap(
        lambda reports: st.tuples(st.just(reports), st.permutations(reports))
    )
)
def test_means_do_not_depend_on_the_order_of_reports_and_lie_between_them(
    orders: tuple[list[tuple[float, float]], list[tuple[float, float]]],
) -> None:
    first, second = (weighted_means((weight, {"m": value}) for weight, value in order)["m"] for order in orders)
    values = [value for _, value in orders[0]]
    assert first == second
    assert min(values) - 1e-5 <= first <= max(values) + 1e-5


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((math.inf, -math.inf), math.nan),
        ((math.nan, 1.0), math.nan),
        ((math.inf, 1.0), math.inf),
        ((1e308, 1e308), math.inf),
        ((-1e308, -1e308), -math.inf),
    ],
)
def test_what_has_no_finite_sum_averages_as_ieee_754_says_instead_of_raising(
    values: tuple[float, float], mean: float
) -> None:
    np.testing.assert_equal(weighted_means((1.0, {"m": value}) for value in values)["m"], mean)


class Tensor:
    """Of a library that only NumPy can read."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Any:
        if self.value is None:
            raise RuntimeError("it is on another device")
        return np.asarray(self.value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Tensor(0.5), 0.5), (Tensor([1, 2]), [1, 2]), (np.float32(0.5), 0.5), (Tensor, Tensor), ("a", "a")],
)
def test_tensors_of_any_library_become_numbers_and_lists(value: object, plain: object) -> None:
    assert unwrapped(value, "loss") == plain


@pytest.mark.parametrize("value", [np.zeros(MAX_ARRAY + 1), Tensor(None)])
def test_tensors_that_are_large_or_cannot_be_read_are_refused(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        unwrapped(value, "loss")
    assert caught.value.field == "loss"
