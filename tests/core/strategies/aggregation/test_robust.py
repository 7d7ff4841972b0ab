"""The robust rules against numbers made by hand, and against their papers' formulas written once more."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from rules import fold, started
from scipy import stats

from metisfl_async.controller.threads import Threads
from metisfl_async.core.errors import NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK
from metisfl_async.core.strategies.aggregation.bulyan import Bulyan
from metisfl_async.core.strategies.aggregation.centered_clipping import CenteredClipping
from metisfl_async.core.strategies.aggregation.geometric_median import GeometricMedian
from metisfl_async.core.strategies.aggregation.geometry import TILE, distance, products, squared_distances
from metisfl_async.core.strategies.aggregation.krum import Krum, MultiKrum
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, made
from metisfl_async.core.strategies.aggregation.spreading import spreading
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean

Floats = NDArray[np.float64]  #: shape (n,)
Points = NDArray[np.float64]  #: shape (updates, n)
SIZE = 2 * BLOCK + 5


def model_of(values: Array) -> Model:
    """Make a model of two float64 tensors, with an integer between them."""
    half = len(values) // 2
    return Model.from_arrays([values[:half], np.array(7), values[half:]])


def combined(rule: AggregationRule, points: Sequence[Array] | Points, first: Array | None = None) -> Floats:
    """Let a rule make a model of these points."""
    started(rule, model_of(np.zeros_like(points[0]) if first is None else first))
    for number, point in enumerate(points):
        fold(rule, model_of(point), 1.0, LearnerId(f"{number:04}"))
    one, counter, other = made(rule, 1).arrays()
    assert counter == 7
    return np.concatenate([one, other])


def drawn(count: int, size: int = SIZE, seed: int = 0) -> Points:
    return np.random.default_rng(seed).standard_normal((count, size))


# --- element by element ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 20, 31])
def test_the_median_is_numpys(count: int) -> None:
    points = drawn(count)
    np.testing.assert_allclose(combined(Median(), points), np.median(points, axis=0), rtol=1e-15)


@pytest.mark.parametrize(("count", "f"), [(3, 1), (5, 2), (10, 2), (25, 3)])
def test_the_trimmed_mean_is_scipys(count: int, f: int) -> None:
    points = drawn(count)
    expected = stats.trim_mean(points, (f + 0.5) / count, axis=0)  # it cuts off int(share * n) at each end
    np.testing.assert_allclose(combined(TrimmedMean(f), points), expected, rtol=1e-12, atol=1e-15)


def test_the_trimmed_mean_by_hand() -> None:
    points = np.array([[1.0, -9.0], [2.0, 4.0], [3.0, 5.0], [100.0, 6.0]])
    np.testing.assert_array_equal(combined(TrimmedMean(1), points), [2.5, 4.5])


def test_a_liar_with_the_largest_numbers_there_are_changes_next_to_nothing() -> None:
    points = [np.array([1.0, 1.0]), np.array([1.1, 0.9]), np.array([0.9, 1.1]), np.array([1.0, 1.0])]
    points += [np.array([1.05, 1.0]), np.array([1.0, 1.05]), np.array([1e287, -1e287])]
    for rule in (Median(), TrimmedMean(1), Krum(1), MultiKrum(1), GeometricMedian(), Bulyan(1)):
        np.testing.assert_allclose(combined(rule, points), [1.0, 1.0], atol=0.1)


# --- distances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, TILE, TILE + 3])
def test_products_and_distances_are_those_of_the_points(count: int) -> None:
    points, base = drawn(count, 2 * BLOCK + 11), drawn(1, 2 * BLOCK + 11, seed=1)[0]
    of = products([model_of(point) for point in points], model_of(base))
    np.testing.assert_allclose(of, (points - base) @ (points - base).T, rtol=1e-9, atol=1e-7)
    squares = ((points[:, None, :8] - points[None, :, :8]) ** 2).sum(axis=2)
    small = products([Model.from_arrays([point[:8]]) for point in points], Model.from_arrays([base[:8]]))
    np.testing.assert_allclose(squared_distances(small), squares, atol=1e-10)
    shares = np.linspace(0.0, 1.0, count)
    center = base[:8] + shares @ (points[:, :8] - base[:8])
    np.testing.assert_allclose(distance(small, shares), np.linalg.norm(points[:, :8] - center, axis=1), atol=1e-6)


def test_threads_make_the_same_products() -> None:
    updates, base = [model_of(point) for point in drawn(3, 20 * BLOCK)], model_of(np.zeros(20 * BLOCK))
    threads = Threads(2)
    try:
        with spreading(threads.spread):
            spread = products(updates, base)
    finally:
        threads.close()
    np.testing.assert_allclose(spread, products(updates, base), rtol=1e-12)


# --- Krum, MultiKrum, Bulyan -----------------------------------------------------------------------------------------


def krum_scores(points: Points, f: int) -> list[float]:
    """The paper's s(i), with loops."""
    found = []
    for i, point in enumerate(points):
        squares = sorted(float(((point - other) ** 2).sum()) for j, other in enumerate(points) if j != i)
        found.append(sum(squares[: max(len(points) - f - 2, 1)]))
    return found


def test_krum_by_hand() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.5, 0.0], [50.0, 0.0]])
    # Of 5 with f = 1, each has 2 nearest neighbours: 1 + 9, 1 + 4, 0.25 + 4, 0.25 + 6.25, 46.5 ** 2 + 47 ** 2.
    assert krum_scores(points, 1)[:4] == [10.0, 5.0, 4.25, 6.5]
    rule = Krum(1)
    np.testing.assert_array_equal(combined(rule, points), [3.0, 0.0])
    selected = {learner for learner, note in rule.notes().items() if note["is_selected"]}
    assert selected == {"0002"}


@pytest.mark.parametrize(("count", "f"), [(5, 1), (7, 2), (12, 3)])
def test_krum_gives_the_update_with_the_least_score_as_it_is(count: int, f: int) -> None:
    points = drawn(count, 50, seed=count)
    expected = points[int(np.argmin(krum_scores(points, f)))]
    np.testing.assert_array_equal(combined(Krum(f), points), expected)


@pytest.mark.parametrize(("count", "f", "m"), [(7, 1, 3), (10, 2, None), (9, 2, 5)])
def test_multikrum_is_the_mean_of_the_m_best(count: int, f: int, m: int | None) -> None:
    points = drawn(count, 50, seed=count)
    best = np.argsort(krum_scores(points, f))[: count - f - 2 if m is None else m]
    np.testing.assert_allclose(combined(MultiKrum(f, m), points), points[best].mean(axis=0), rtol=1e-12)


def test_multikrum_needs_learners_for_all_that_it_selects() -> None:
    assert [MultiKrum(1).min_updates, MultiKrum(1, 3).min_updates, Krum(2).min_updates] == [5, 6, 7]


def bulyan(points: Points, f: int) -> Floats:
    """The paper's two steps, with loops."""
    left, selected = list(range(len(points))), list[int]()
    while len(selected) < len(points) - 2 * f:
        scores = krum_scores(points[left], f)
        selected.append(left.pop(int(np.argmin(scores))))
    result = np.empty(points.shape[1])
    for index, column in enumerate(points[selected].T):
        median = np.median(column)
        result[index] = np.mean(sorted(column, key=lambda value: abs(value - median))[: len(selected) - 2 * f])
    return result


@pytest.mark.parametrize(("count", "f"), [(7, 1), (8, 1), (11, 2), (12, 2)])
def test_bulyan_is_what_its_paper_says(count: int, f: int) -> None:
    points = drawn(count, 60, seed=count)
    rule = Bulyan(f)
    np.testing.assert_allclose(combined(rule, points), bulyan(points, f), rtol=1e-12)
    assert sum(bool(note["is_selected"]) for note in rule.notes().values()) == count - 2 * f


def test_bulyan_by_hand() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [5.0, 0.0], [1e6, 0.0]])
    # Krum selects 5 of 7, of which the 3 nearest to their median are left.
    selected = [2.0, 3.0, 1.0, 4.0, 0.0]
    assert sorted(selected) == [0.0, 1.0, 2.0, 3.0, 4.0]
    np.testing.assert_array_equal(combined(Bulyan(1), points), [2.0, 0.0])


# --- the geometric median --------------------------------------------------------------------------------------------


def test_the_geometric_median_of_a_right_triangle_is_fermats_point() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    fermat = (3.0 - 3.0**0.5) / 6.0
    np.testing.assert_allclose(combined(GeometricMedian(), points), [fermat, fermat], rtol=1e-9)


def test_no_point_nearby_is_nearer_to_all_and_the_pulls_cancel_out() -> None:
    points = drawn(9, 40, seed=3)
    rule = GeometricMedian()
    found = combined(rule, points, first=drawn(1, 40, seed=4)[0])
    pulls = (points - found) / np.linalg.norm(points - found, axis=1, keepdims=True)
    np.testing.assert_allclose(pulls.sum(axis=0), 0.0, atol=1e-7)
    shares = [note["share"] for note in rule.notes().values()]
    assert sum(share for share in shares if isinstance(share, float)) == pytest.approx(1.0)


@pytest.mark.parametrize("far", [1e3, 1e30, 1e120])
def test_it_does_not_matter_how_far_away_a_liar_is(far: float) -> None:
    points = drawn(6, 40, seed=5)
    near = combined(GeometricMedian(), [*points, np.full(40, 1e3)])
    np.testing.assert_allclose(combined(GeometricMedian(), [*points, np.full(40, far)]), near, atol=0.01)


def test_it_may_be_stopped_early_and_equal_updates_are_their_own_median() -> None:
    points = drawn(5, 4, seed=6)
    few, many = combined(GeometricMedian(iterations=1), points), combined(GeometricMedian(), points)
    assert 0.0 < np.abs(few - many).max() < 1.0
    np.testing.assert_allclose(combined(GeometricMedian(), [points[0]] * 4), points[0], rtol=1e-12)


def test_there_is_no_median_when_half_are_infinitely_far_away() -> None:
    far = np.full(2, 1e200)
    with pytest.raises(NoModel, match="GeometricMedian finds half of the updates infinitely far away, or more"):
        combined(GeometricMedian(), [np.zeros(2), np.zeros(2), far, -far])
    np.testing.assert_array_equal(combined(GeometricMedian(), [*np.zeros((3, 2)), far, -far]), [0.0, 0.0])


# --- centered clipping -----------------------------------------------------------------------------------------------


def clipped(points: Points, center: Floats, tau: float, iterations: int) -> Floats:
    """The paper's algorithm, with loops."""
    for _ in range(iterations):
        steps = [point - center for point in points]
        center = center + np.mean([step * min(1.0, tau / np.linalg.norm(step)) for step in steps], axis=0)
    return center


@pytest.mark.parametrize(("tau", "iterations"), list(itertools.product([0.1, 6.0, 100.0], [1, 3])))
def test_centered_clipping_is_what_its_paper_says(tau: float, iterations: int) -> None:
    points, first = drawn(7, 40, seed=7), drawn(1, 40, seed=8)[0]
    points[3] *= 1e6
    found = combined(CenteredClipping(tau, iterations=iterations), points, first)
    np.testing.assert_allclose(found, clipped(points, first, tau, iterations), rtol=1e-6, atol=1e-6)


def test_centered_clipping_by_hand() -> None:
    points = np.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0], [0.0, 1e9]])
    rule = CenteredClipping(2.5)
    # Halved to (1.5, 2); as it is; nothing; pulled in to (0, 2.5).
    np.testing.assert_allclose(combined(rule, points), [2.1 / 4, 5.3 / 4], rtol=1e-12)
    assert [note["share"] for note in rule.notes().values()] == pytest.approx([0.125, 0.25, 0.25, 2.5e-9 / 4])


def test_who_is_infinitely_far_away_moves_nothing() -> None:
    points = [np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([1e200, 0.0])]
    np.testing.assert_allclose(combined(CenteredClipping(5.0), points), [1 / 3, 1 / 3], rtol=1e-12)
