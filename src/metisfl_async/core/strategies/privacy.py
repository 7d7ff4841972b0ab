"""How much privacy a number of noised sums spends: exact for the Gaussian mechanism."""

from __future__ import annotations

import math

__all__ = ["delta_of", "epsilon_of"]

FAR = 25.0  #: beyond, the tail of the normal distribution is less than 1e-137


def delta_of(epsilon: float, mu: float) -> float:
    """Give the smallest delta at an epsilon.

    Parameters
    ----------
    epsilon : float
        >= 0; dimensionless.
    mu : float
        > 0: how far one learner can move the sum, in standard deviations of its noise. Sums that are published one
        after another, each with noise of its own, count as one with ``mu = sqrt(mu_1**2 + mu_2**2 + ...)``.

    Returns
    -------
    float
        In [0, 1].

    References
    ----------
    Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy", arXiv:1805.06530, theorem 8. Dong, Roth,
    Su, "Gaussian Differential Privacy", arXiv:1905.02383, corollary 1 and corollary 2 (composition).
    """
    second = math.exp(epsilon + _log_tail(epsilon / mu + mu / 2))  # the exponent is below 0
    return max(_tail(epsilon / mu - mu / 2) - second, 0.0)


def epsilon_of(noise_multiplier: float, releases: int, delta: float) -> float:
    """Give the smallest epsilon for which that many noised sums are (epsilon, delta)-private together.

    Parameters
    ----------
    noise_multiplier : float
        > 0: the standard deviation of the noise of each sum, over what one learner can move it by.
    releases : int
        >= 0, how many sums were published.
    delta : float
        In (0, 1).

    Returns
    -------
    float
        Found by bisection, and rounded upwards: by less than one part in a billion.
    """
    if not releases:
        return 0.0
    mu = math.sqrt(releases) / noise_multiplier
    low, high = 0.0, 1.0
    if delta_of(low, mu) <= delta:
        return low
    while delta_of(high, mu) > delta:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle, mu) <= delta else (middle, high)
    return high


def _tail(x: float) -> float:
    """Give how likely a standard normal number is larger."""
    return math.erfc(x / math.sqrt(2)) / 2


def _log_tail(x: float) -> float:
    """Give the logarithm of that, or a little less, where it is too small for a float: x >= 0.

    References
    ----------
    Abramowitz, Stegun, "Handbook of Mathematical Functions", 26.2.12: each partial sum of the series is a bound.
    """
    if x < FAR:
        return math.log(_tail(x))
    square = x * x
    series = (-1 + 3 / square * (1 - 5 / square)) / square
    return math.log1p(series) - square / 2 - math.log(x * math.sqrt(2 * math.pi))
