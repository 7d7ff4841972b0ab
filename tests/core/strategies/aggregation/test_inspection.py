from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.model import DTYPES, Array, Model, allocate
from metisfl_async.core.strategies.aggregation import arithmetic
from metisfl_async.core.strategies.aggregation.arithmetic import Inspection, unfit

SOME = ["float16", "bfloat16", "float32", "float64", "int8", "int64", "bool"]


def arrays(dtypes: list[str], counts: list[int]) -> list[Array]:
    return [np.ones(count, DTYPES[dtype]) for dtype, count in zip(dtypes, counts, strict=True)]


@pytest.mark.slow
@given(st.data())
def test_however_a_model_arrives_what_is_not_finite_is_seen(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.tuples(st.sampled_from(SOME), st.integers(0, 40)), min_size=1, max_size=5))
    model = Model.from_arrays(arrays([kind for kind, _ in kinds], [count for _, count in kinds]))
    floats = [array for array in model.arrays() if array.size and array.dtype.kind not in "iub"]
    if floats:
        victim = floats[data.draw(st.integers(0, len(floats) - 1))]
        victim[data.draw(st.integers(0, victim.size - 1))] = data.draw(st.sampled_from([1.0, np.nan, np.inf, -np.inf]))
    arriving = Model(model.manifest, allocate(model.manifest.size_bytes))
    arriving.buffer[:] = 0xFF  # what has not arrived is NaN, and must not be looked at
    inspection, arrived = Inspection(arriving), 0
    while arrived < model.manifest.size_bytes:
        stop = data.draw(st.integers(arrived + 1, model.manifest.size_bytes))
        arriving.buffer[arrived:stop] = model.buffer[arrived:stop]
        inspection.advance(stop)
        arrived = stop
    assert inspection.is_finite == (unfit(model) is None)


def test_a_float64_that_would_overflow_the_sum_is_not_finite() -> None:
    model = Model.from_arrays([np.array([1.0, 1e300])])
    inspection = Inspection(model)
    inspection.advance(8)
    assert inspection.is_finite
    inspection.advance(16)
    assert not inspection.is_finite


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, "largest", "least", 0.0, -1.0])
def test_every_kind_of_float_is_understood(dtype: str, value: float | str) -> None:
    limits = ml_dtypes.finfo(DTYPES[dtype])  # type: ignore[no-untyped-call]
    largest = 1e288 if dtype == "float64" else limits.max
    number = {"largest": largest, "least": limits.smallest_subnormal}.get(str(value), value)
    model = Model.from_arrays([np.array([1.0, number], DTYPES[dtype])])
    assert (unfit(model) is None) == bool(np.isfinite(np.float64(number)))


def test_where_dtypes_take_turns_too_often_it_does_not_look() -> None:
    few, many = (
        Model.from_arrays(arrays(["float32", "int8"] * (count // 2), [1] * count))
        for count in (arithmetic.MOST_RUNS, arithmetic.MOST_RUNS + 2)
    )
    for model, looks in ((few, True), (many, False)):
        inspection = Inspection(model)
        inspection.advance(model.manifest.size_bytes)
        assert inspection.is_finite == looks
        assert unfit(model) is None


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_a_model_without_values_is_finite(shape: tuple[int, ...]) -> None:
    model = Model.from_arrays([np.ones(shape, np.float32)])
    inspection = Inspection(model)
    inspection.advance(model.manifest.size_bytes)
    assert inspection.is_finite
