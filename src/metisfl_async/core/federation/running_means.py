"""Means over everybody's latest metrics, where one learner after another reports."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from metisfl_async.core.federation.evaluation import Evaluation
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import NUM_EXAMPLES, Metrics

__all__ = ["RunningEvaluation", "RunningMeans"]


@dataclass(slots=True)
class _Sums:
    """Of one metric. They are exact, so that what was added can be taken out again."""

    weights: Fraction = Fraction()
    products: Fraction = Fraction()
    reports: int = 0
    odd: Counter[str] = field(default_factory=Counter)  #: values that are not finite

    def add(self, weight: float, value: float, sign: int) -> None:
        self.reports += sign
        if math.isfinite(value):
            self.weights += sign * Fraction(weight)
            self.products += sign * Fraction(weight) * Fraction(value)
        else:
            self.odd[str(value)] += sign

    def mean(self) -> float:
        if odd := [float(value) for value, count in self.odd.items() if count]:
            return sum(odd)  # as IEEE 754 has it: infinities of both signs make nan
        return float(self.products / self.weights)


class RunningMeans:
    """Weighted means of metrics; the work for a report does not depend on the number of learners."""

    def __init__(self) -> None:
        self._reports: dict[LearnerId, tuple[float, Metrics]] = {}
        self._sums: dict[str, _Sums] = {}

    def __len__(self) -> int:
        return len(self._reports)

    def report(self, learner: LearnerId, weight: float, metrics: Metrics) -> None:
        """Take in a learner's metrics in place of those before; the weight is positive."""
        self.forget(learner)
        self._reports[learner] = weight, metrics
        self._add(weight, metrics, 1)

    def reports(self) -> dict[LearnerId, tuple[float, Metrics]]:
        """List what everybody reported last, with its weight."""
        return dict(self._reports)

    def weigh(self, learner: LearnerId, weight: float) -> None:
        """Give what a learner reported, if it did, another weight."""
        if learner in self._reports:
            self.report(learner, weight, self._reports[learner][1])

    def forget(self, learner: LearnerId) -> None:
        """Take out what a learner reported, if it did."""
        if (report := self._reports.pop(learner, None)) is not None:
            self._add(*report, -1)

    def means(self) -> Metrics:
        """Give ``sum(s_k * m_k) / sum(s_k)`` for each name, over the learners k that report it."""
        return {name: sums.mean() for name, sums in sorted(self._sums.items())}

    def _add(self, weight: float, metrics: Metrics, sign: int) -> None:
        for name, value in metrics.items():
            sums = self._sums.setdefault(name, _Sums())
            sums.add(weight, value, sign)
            if not sums.reports:
                del self._sums[name]


class RunningEvaluation:
    """The mean of everybody's latest evaluation: by how many examples if all say so, else by scaling factors."""

    def __init__(self) -> None:
        self._by_factor, self._by_count = RunningMeans(), RunningMeans()
        self._silent: set[LearnerId] = set()  # those that do not say

    def report(self, learner: LearnerId, weight: float, metrics: Metrics) -> None:
        """Take in a learner's evaluation in place of the one before; the weight is its scaling factor."""
        self.forget(learner)
        self._by_factor.report(learner, weight, metrics)
        if (count := metrics.get(NUM_EXAMPLES)) is None:
            self._silent.add(learner)
        elif count:
            self._by_count.report(learner, count, metrics)

    def reports(self) -> dict[LearnerId, tuple[float, Metrics]]:
        """List what everybody reported last, with its scaling factor."""
        return self._by_factor.reports()

    def weigh(self, learner: LearnerId, weight: float) -> None:
        """Give what a learner reported, if it did, another scaling factor."""
        self._by_factor.weigh(learner, weight)

    def forget(self, learner: LearnerId) -> None:
        """Take out what a learner reported, if it did."""
        self._by_factor.forget(learner)
        self._by_count.forget(learner)
        self._silent.discard(learner)

    def mean(self) -> Evaluation:
        """Give the mean of each metric, over those who report it, and say by what it is weighted."""
        is_counted = not self._silent and len(self._by_count) > 0
        means = (self._by_count if is_counted else self._by_factor).means()
        means.pop(NUM_EXAMPLES, None)
        return Evaluation(means, (NUM_EXAMPLES if is_counted else "scaling_factor") if means else "")
