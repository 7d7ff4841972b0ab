"""What is told of updates beside their sum: how far they go, where to, and whether they are anything new."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from rules import A, B, C, of

from metisfl_async.controller.threads import Threads
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK
from metisfl_async.core.strategies.aggregation.resemblance import SKETCH, Gallery, portrait
from metisfl_async.core.strategies.aggregation.spreading import spreading

TASKS = [TaskId(f"{number:032}") for number in range(10)]


def cosines(updates: list[Model], base: Model, weights: list[float] | None = None) -> list[float | None]:
    gallery = Gallery()
    for task, update, weight in zip(TASKS, updates, weights or [1.0] * len(updates), strict=False):
        gallery.add(task, LearnerId(task), weight, portrait(update, base))
    found = gallery.cosines()
    return [found.get(task) for task, _ in zip(TASKS, updates, strict=False)]


def true_cosines(changes: NDArray[np.float64], weights: list[float]) -> NDArray[np.float64]:
    mean = np.average(changes, axis=0, weights=weights)
    result: NDArray[np.float64] = changes @ mean / np.linalg.norm(changes, axis=1) / np.linalg.norm(mean)
    return result


def test_norms_and_cosines_of_a_small_model_by_hand() -> None:
    base = of(1.0, 1.0)
    assert portrait(of(4.0, 5.0), base).norm == 5.0
    found = cosines([of(4.0, 1.0), of(1.0, 5.0)], base)  # (3, 0) and (0, 4); the mean is (1.5, 2)
    assert found == pytest.approx([0.6, 0.8])
    assert cosines([of(4.0, 1.0), of(1.0, 5.0)], base, [4.0, 3.0]) == pytest.approx([0.5**0.5, 0.5**0.5])
    assert cosines([of(4.0, 1.0), of(-2.0, 1.0), of(2.0, 1.0)], base) == pytest.approx([1.0, -1.0, 1.0])


def test_up_to_so_many_elements_in_all_they_are_exact() -> None:
    random = np.random.default_rng(1)
    base: list[Array] = [np.zeros(SKETCH // 2, np.float32), np.zeros(3, np.int64), np.zeros(SKETCH // 2)]
    changes = random.standard_normal((4, SKETCH))
    updates = [
        Model.from_arrays([row[: SKETCH // 2].astype(np.float32), base[1], row[SKETCH // 2 :]]) for row in changes
    ]
    weights = [1.0, 2.0, 3.0, 4.0]
    found = cosines(updates, Model.from_arrays(base), weights)
    np.testing.assert_allclose(np.array(found, float), true_cosines(changes, weights), rtol=1e-6)
    for row, update in zip(changes, updates, strict=True):
        assert portrait(update, Model.from_arrays(base)).norm == pytest.approx(np.linalg.norm(row))


@pytest.mark.parametrize("size", [BLOCK - 7, 3 * BLOCK + 7, 17 * BLOCK + 7])
def test_of_large_models_they_are_within_some_hundredths(size: int) -> None:
    random = np.random.default_rng(2)
    shift = random.standard_normal(size, dtype=np.float32) * 0.1 + 0.2
    changes = np.stack([noise * random.standard_normal(size, dtype=np.float32) + shift for noise in (0.1, 1.0, 3.0)])
    base = Model.from_arrays([random.standard_normal(size, dtype=np.float32)])
    updates = [Model.from_arrays([base.arrays()[0] + change]) for change in changes]
    wide = changes.astype(np.float64)
    np.testing.assert_allclose(np.array(cosines(updates, base), float), true_cosines(wide, [1.0] * 3), atol=0.12)
    for update, change in zip(updates, wide, strict=True):
        assert portrait(update, base).norm == pytest.approx(float(np.linalg.norm(change)), rel=1e-4)


def test_threads_make_the_same_portrait() -> None:
    random = np.random.default_rng(3)
    base, update = (Model.from_arrays([random.standard_normal(20 * BLOCK, dtype=np.float32)]) for _ in range(2))
    alone = portrait(update, base)
    threads = Threads(2)
    try:
        with spreading(threads.spread):
            one, other = portrait(update, base), portrait(update, base)
    finally:
        threads.close()
    assert one.digest == other.digest
    assert one.norm == pytest.approx(alone.norm)
    np.testing.assert_allclose(one.sketch, alone.sketch, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_dtype_has_a_norm_and_a_float32_may_be_as_large_as_it_can(dtype: type) -> None:
    values: Array = np.array([3.0, -4.0]).astype(dtype)
    assert portrait(Model.from_arrays([values]), Model.from_arrays([np.zeros_like(values)])).norm == 5.0
    far = portrait(of(3e38, 3e38), of(-3e38, 0.0))
    assert far.norm == pytest.approx(3e38 * 5**0.5)
    assert cosines([of(3e38, 3e38), of(1.0, 1.0)], of(-3e38, 0.0)) == [None, pytest.approx(1.0)]


def test_who_goes_infinitely_far_or_nowhere_has_no_cosine() -> None:
    def one(value: float) -> Model:
        return Model.from_arrays([np.array([value])])

    assert portrait(one(1e200), one(0.0)).norm == math.inf
    assert cosines([one(1e200), one(0.0), one(1.0)], one(0.0)) == [None, None, 1.0]
    assert cosines([one(0.0)], one(0.0)) == [None]
    assert cosines([one(1.0), one(-1.0)], one(0.0)) == [None, None]  # their mean goes nowhere


@pytest.mark.parametrize("array", [np.zeros(0, np.float32), np.array([3], np.int64)])
def test_a_model_without_any_float_has_no_norm_and_no_cosine(array: Array) -> None:
    model = Model.from_arrays([array])
    assert portrait(model, model).norm == 0.0
    assert cosines([model], model) == [None]


def test_the_global_model_as_it_was_is_told_from_one_that_differs_in_an_integer() -> None:
    def model(value: float, number: int) -> Model:
        arrays: list[Array] = [np.array([value], np.float32), np.array([number], np.int32), np.array([True])]
        return Model.from_arrays(arrays)

    base = model(1.0, 3)
    assert portrait(model(1.0, 3), base).is_global
    assert not portrait(model(1.0, 4), base).is_global
    assert not portrait(model(1.5, 3), base).is_global
    assert portrait(model(1.0, 4), base).digest != portrait(model(1.0, 5), base).digest


def test_twins_are_found_among_the_updates_of_one_model() -> None:
    gallery, base = Gallery(), of(0.0, 0.0)
    one, other, nothing = (portrait(model, base) for model in (of(1.0, 2.0), of(1.0, 2.5), base))
    assert gallery.add(TASKS[0], A, 1.0, one) is None
    assert gallery.add(TASKS[1], B, 1.0, other) is None
    assert gallery.add(TASKS[2], C, 1.0, one) == A
    assert gallery.add(TASKS[3], A, 1.0, other) == B
    assert gallery.add(TASKS[4], B, 1.0, other) == A
    assert gallery.add(TASKS[5], A, 1.0, nothing) is None
    assert gallery.add(TASKS[6], B, 1.0, nothing) is None  # it is the global model: that says more
    gallery.clear()
    assert gallery.add(TASKS[7], B, 1.0, one) is None
    assert gallery.add(TASKS[8], B, 1.0, one) is None  # its own


def test_who_goes_by_far_the_furthest_is_named() -> None:
    gallery, base = Gallery(), of(0.0)
    assert gallery.suspects() == ""
    assert gallery.cosines() == {}
    gallery.add(TASKS[0], A, 1.0, portrait(of(3e38), base))
    assert gallery.suspects() == "; the only update is of a"
    gallery.add(TASKS[1], B, 1.0, portrait(of(0.5), base))
    gallery.add(TASKS[2], C, 1.0, portrait(of(0.25), base))
    assert gallery.suspects() == "; by far the most changes the update of a (3e+38), the middle one 0.5"
    gallery.add(TASKS[3], A, 1.0, portrait(of(1.0), base))
    assert gallery.suspects() == ""


def test_a_gallery_is_as_large_as_the_sketches_in_it() -> None:
    gallery, base = Gallery(), of(1.0, 1.0)
    assert gallery.size_bytes == 0
    for task in TASKS[:3]:
        gallery.add(task, LearnerId(task), 1.0, portrait(of(4.0, 5.0), base))
    assert gallery.size_bytes == 3 * 2 * 8
    zeros, ones = (Model.from_arrays([np.full(SKETCH + 1, value, np.float32)]) for value in (0.0, 1.0))
    gallery.add(TASKS[3], A, 1.0, portrait(ones, zeros))
    assert gallery.size_bytes == (3 * 2 + SKETCH) * 8
