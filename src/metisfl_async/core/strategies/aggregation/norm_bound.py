"""NormBound: no update changes the model by more than a bound, whatever the rule makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from metisfl_async.core.checks import positive
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array, Bytes, Model, allocate
from metisfl_async.core.strategies.aggregation.geometry import fill_floats, products
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.core.strategies.aggregation.tree_bagging import TreeBagging
from metisfl_async.core.strategies.aggregation.wrapper import Wrapper

__all__ = ["NormBound"]


class NormBound(Wrapper):
    """Wraps a rule: an update that changes more than `tau` is shortened to ``G + tau * (w - G) / |w - G|``.

    The norm is that of the tensors of floats together; those of integers and booleans stay as they are. G is the model
    that the update started from, if the wrapped rule keeps it, and else the latest. The scaling factors are the wrapped
    rule's affair: who claims many examples still weighs much, but each update is bounded. The round's record says what
    was clipped.

    Parameters
    ----------
    tau : float
        > 0, in the units of the model; a little more than what the updates of honest learners change, which is the
        `update_norm` of a round's record.
    rule : AggregationRule, optional
        FedAvg. Any but TreeBagging, and those that want to know each learner's update before, such as FedRec.

    References
    ----------
    Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", arXiv:1911.07963, section 4, norm
    thresholding of updates.
    """

    def __init__(self, tau: float, rule: AggregationRule | None = None) -> None:
        super().__init__(rule, "a rule that does not need each learner's update before, such as FedAvg()")
        positive("tau", tau)
        self.tau = tau
        self.starts_afresh = self.rule.starts_afresh

    @staticmethod
    def takes(rule: AggregationRule) -> bool:
        return not rule.needs_previous and not isinstance(rule, TreeBagging)  # half a tree is none

    def start(self, model: Model) -> None:
        self.rule.start(model)
        self._models = {model.version: model}
        self._room: Bytes | None = None  # for an update that is shortened
        self._clipped: dict[LearnerId, dict[str, Json]] = {}  # of the model that is being made
        self._notes: dict[LearnerId, dict[str, Json]] = {}  # of the one that was made last

    def fold(self, update: Update) -> None:
        latest = next(reversed(self._models))
        base = self._models.get(latest - update.staleness, self._models[latest])
        norm = float(np.sqrt(products([update.model], base)[0, 0]))  # infinite where its square is too large
        if norm <= self.tau:
            self.rule.fold(update)
            self._clipped.pop(update.learner, None)
        else:
            self._room = allocate(len(base.buffer), self._room)
            self._room[:] = update.model.buffer  # integers and booleans stay
            shortened = Model(base.manifest, self._room, update.model.version)
            fill_floats(shortened, [update.model], np.array([self.tau / norm]), base)
            self.rule.fold(Update(update.learner, shortened, update.weight, update.staleness))
            self._clipped[update.learner] = {"clipped_from": norm, "clipped_to": self.tau}

    def aggregate(self, version: int) -> Model:
        model = self.rule.aggregate(version)
        self._models = dict([*self._models.items(), (version, model)][-self.num_models :])
        self._notes, self._clipped = self._clipped, {}
        return model

    def take_back(self, model: Model) -> None:
        super().take_back(model)
        before = {version: kept for version, kept in self._models.items() if version < model.version}
        self._models, self._clipped = before | {model.version: model}, {}

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        of_rule = self.rule.notes()
        learners = of_rule.keys() | self._notes.keys()
        return {learner: {**of_rule.get(learner, {}), **self._notes.get(learner, {})} for learner in learners}

    def state(self) -> Mapping[str, Array]:
        return self.rule.state()

    def restore(self, models: Sequence[Model], state: Mapping[str, Array]) -> None:
        self.start(models[-1])
        self.rule.restore(models, state)
        self._models = {model.version: model for model in models}

    def discard(self) -> None:
        self.rule.discard()
        self._clipped = {}
