"""Rules around another rule: what that one needs, they need."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["Wrapper"]


class Wrapper(AggregationRule):
    """Changes what goes into another rule, `rule`, or what comes out of it."""

    def __init__(self, rule: AggregationRule | None, allowed: str) -> None:
        rule = FedAvg() if rule is None else rule
        if not isinstance(rule, AggregationRule) or not self.takes(rule):
            raise ConfigError("rule", rule, allowed)
        self.rule = rule
        self.in_rounds, self.needs_previous = rule.in_rounds, rule.needs_previous
        self.num_models, self.min_updates, self.is_heavy = rule.num_models, rule.min_updates, rule.is_heavy
        self.updates_per_version, self.stride_length = rule.updates_per_version, rule.stride_length
        self.is_private = rule.is_private

    @staticmethod
    @abstractmethod
    def takes(rule: AggregationRule) -> bool:
        """Whether it can wrap this one."""

    @property
    def sum_form(self) -> type[Sum]:
        return self.rule.sum_form

    def fold(self, update: Update) -> None:
        self.rule.fold(update)

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        return self.rule.notes()

    def privacy(self) -> Mapping[str, float]:
        return self.rule.privacy()

    def take_back(self, model: Model) -> None:
        self.rule.take_back(model)  # which may remember more than updates

    def discard(self) -> None:
        self.rule.discard()

    def remove(self, update: Update) -> None:
        self.rule.remove(update)
