from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from metisfl_async.core.strategies.privacy import delta_of, epsilon_of


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("mu", [0.1, 0.7, 2.0, 5.0])
def test_delta_is_that_of_two_normal_distributions_by_integration(epsilon: float, mu: float) -> None:
    """The definition: the integral of how much more likely a result is than exp(epsilon) allows."""
    near, far, step = NormalDist(mu), NormalDist(0.0), 1e-3
    places = (-12.0 + step * (count + 0.5) for count in range(int((24.0 + mu) / step)))
    integral = step * sum(max(near.pdf(x) - math.exp(epsilon) * far.pdf(x), 0.0) for x in places)
    assert delta_of(epsilon, mu) == pytest.approx(integral, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("releases", [1, 10, 200])
def test_epsilon_is_below_what_renyi_divergence_bounds(sigma: float, releases: int) -> None:
    """Mironov, arXiv:1702.07476: alpha / (2 sigma**2) for each release, and log(1/delta) / (alpha - 1) in the end."""
    delta = 1e-5
    orders = (1 + step / 1000 for step in range(1, 200_000, 7))
    bound = min(releases * order / (2 * sigma**2) + math.log(1 / delta) / (order - 1) for order in orders)
    epsilon = epsilon_of(sigma, releases, delta)
    assert 0.5 * bound < epsilon < bound


def test_many_releases_are_one_with_less_noise() -> None:
    assert epsilon_of(10.0, 100, 1e-6) == pytest.approx(epsilon_of(1.0, 1, 1e-6), rel=1e-9)


@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.01])
@pytest.mark.parametrize("noise_multiplier", [0.001, 0.1, 1.0, 30.0])
def test_epsilon_is_the_smallest_that_keeps_delta(noise_multiplier: float, delta: float) -> None:
    epsilon = epsilon_of(noise_multiplier, 7, delta)
    mu = math.sqrt(7) / noise_multiplier
    assert delta_of(epsilon, mu) <= delta < delta_of(epsilon * (1 - 1e-6), mu)


def test_nothing_released_spends_nothing_nor_does_what_delta_covers() -> None:
    assert epsilon_of(1.0, 0, 1e-5) == 0.0
    assert epsilon_of(1e5, 1, 0.1) == 0.0


@pytest.mark.parametrize(
    ("noise_multiplier", "releases", "delta", "expected"),
    [
        (1.0, 1, 1e-5, 4.37717810),
        (4.0, 100, 1e-5, 13.20671224),
        (0.5, 10, 1e-6, 49.31927666),
        (20.0, 200, 1e-5, 2.94322525),
    ],
)
def test_epsilon_is_what_another_accountant_says(
    noise_multiplier: float, releases: int, delta: float, expected: float
) -> None:
    """The numbers are those of the PLDAccountant of dp-accounting 0.4.4, an upper bound."""
    assert epsilon_of(noise_multiplier, releases, delta) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("noise_multiplier", "releases", "delta", "expected"),
    [
        (1.0, 1_500, 1e-3, 868.722255779),
        (0.5, 1_000, 1e-6, 2299.66881515),
        (0.1, 7, 1e-10, 517.409393848),
        (0.001, 1, 1e-5, 504263.892921),
    ],
)
def test_where_a_float_is_too_small_it_is_still_exact(
    noise_multiplier: float, releases: int, delta: float, expected: float
) -> None:
    """The numbers are those of the same formula in 60 digits (mpmath)."""
    got = epsilon_of(noise_multiplier, releases, delta)
    assert got == pytest.approx(expected, rel=1e-9)
    assert got >= expected
