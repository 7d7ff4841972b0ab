"""Aggregation rules moved by hand."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

R = TypeVar("R", bound=AggregationRule)

A, B, C = (LearnerId(name) for name in "abc")


def of(*values: float, version: int = 0) -> Model:
    """Make a model of one float32 tensor."""
    return Model.from_arrays([np.array(values, np.float32)], version=version)


def started(rule: R, model: Model) -> R:
    rule.start(model)
    return rule


def fold(rule: AggregationRule, model: Model, weight: float, learner: LearnerId = A, staleness: int = 0) -> None:
    rule.fold(Update(learner, model, weight, staleness))


class Kept:
    """Folds updates as a controller does that keeps each learner's latest."""

    def __init__(self, rule: AggregationRule, first: Model) -> None:
        self.rule = started(rule, first)
        self.latest: dict[LearnerId, Update] = {}
        self.version = 0

    def commit(self, learner: LearnerId, model: Model, weight: float) -> Model:
        """Fold one update, and make a model at once."""
        self.rule.fold(Update(learner, model, weight, 0, self.latest.get(learner)))
        self.latest[learner] = Update(learner, model, weight)
        self.version += 1
        return self.rule.aggregate(self.version)

    def leave(self, learner: LearnerId) -> None:
        self.rule.remove(self.latest.pop(learner))
