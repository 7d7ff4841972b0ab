"""What an aggregation rule is: how updates become the next global model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum, unfit
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum

__all__ = ["AggregationRule", "Update", "made"]


@dataclass(frozen=True, slots=True)
class Update:
    """What one learner returned, checked: the global model's manifest, finite values, a weight > 0."""

    learner: LearnerId
    model: Model  #: its buffer is used for other updates afterwards: copy what is to be kept
    weight: float  #: the scaling factor ``s_k``
    staleness: int = 0  #: global models published since the one that the learner trained from
    previous: Update | None = None  #: the learner's update before this one, if the rule `needs_previous`


class AggregationRule(ABC):
    """Makes global models of updates: `start` once, then `fold`, `fold`, ..., `aggregate`, and so on.

    Calls come one at a time, those with large models in a worker thread. The controller works on a copy of the object
    that is in its configuration, so one object can configure many controllers. An update is refused, and its learner
    told why, when `fold` raises a `ConfigError`, or a MemoryError; the rule must be unchanged then. No model is made,
    and the round says why, when `aggregate` raises a `NoModel`, or gives one that is not finite. Any other exception
    ends the federation.

    `core.strategies.aggregation.arithmetic.Sum` uses the cores there are; for other arithmetic,
    `core.strategies.aggregation.spreading.spread` does.
    """

    in_rounds: bool | None = None  #: whether the rule is only for schedulers with rounds (True) or without (False)
    starts_afresh: bool = True  #: whether a model is made of the updates since the one before, and nothing else
    needs_previous: bool = False  #: whether each learner's latest update is to be kept and given as `Update.previous`
    updates_per_version: int = 1  #: how many updates, at least, make a model where there are no rounds
    min_updates: int = 1  #: how many learners' updates a model needs; `ControllerConfig.min_learners` is no less
    takes_rounded: bool = True  #: whether updates may travel in fewer bytes, which rounds what they change
    is_heavy: bool = False  #: whether `aggregate` takes longer than a mean does: then it never runs on the event loop
    num_models: int = 1  #: how many of the latest global models `restore` needs
    aggregates_again: bool = False  #: whether `aggregate` leaves everything as it was when it raises a MemoryError
    stride_length: int | None = None  #: at most so many updates in memory at a time
    is_private: bool = False  #: whether it promises privacy: only what keeps the promise goes with it
    is_mean: bool = False  #: whether it makes a weighted mean of a round's updates: then sums of them do as well

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        folds, sums = (next(kind for kind in cls.__mro__ if name in vars(kind)) for name in ("fold", "fold_sum"))
        cls.is_mean = cls.is_mean and folds in sums.__mro__  # what it does with each update, it cannot with a sum

    @abstractmethod
    def start(self, model: Model) -> None:
        """Take the first global model, version 0. It is shared and never changes, so it may be kept."""

    @abstractmethod
    def fold(self, update: Update) -> None:
        """Take in one update."""

    @property
    def sum_form(self) -> type[Sum]:
        """Which kind of sums `fold_sum` takes, where the rule `is_mean`."""
        return Sum

    def fold_sum(self, partial: PartialSum) -> None:
        """Take in several learners' updates at once. Only where the rule `is_mean`."""
        allowed = "a rule that is a weighted mean, such as FedAvg(): sums of several learners' updates come to it"
        raise ConfigError("aggregation_rule", type(self).__name__, allowed)

    @abstractmethod
    def aggregate(self, version: int) -> Model:
        """Make the next global model: a new buffer, the manifest of `start`, and the given version."""

    def notes(self) -> Mapping[LearnerId, Mapping[str, Json]]:
        """Say what became of updates in the model that was made last, for the record: what was clipped, or left out."""
        return {}

    def privacy(self) -> Mapping[str, float]:
        """Say what the models made so far spend of the learners' privacy, for the record; empty without a promise.

        "epsilon" and "delta" are what is promised. The federation ends once "next_epsilon" is above "max_epsilon".
        """
        return {}

    def state(self) -> Mapping[str, Array]:
        """Say what it keeps from model to model, beside the latest model: a durable federation writes it down.

        Called after `aggregate`, with nothing folded since. What each learner's latest update says is not part of it,
        where the rule `needs_previous`: those are folded again. A rule of your own must say it (nothing: ``{}``) to be
        used in a durable federation.

        Returns
        -------
        mapping of str to ndarray
            Of the dtypes that models have; copied before the next call.
        """
        return {}

    def restore(self, models: Sequence[Model], state: Mapping[str, Array]) -> None:
        """Take up what `state` gave, after the controller was started again; called after `start` with the first model.

        `models` are the latest global models that are kept, oldest first: `num_models` of them, or fewer.
        """
        self.start(models[-1])

    def take_back(self, model: Model) -> None:
        """Go on from the latest global model: the one that was made after it cannot be published.

        Forget what was folded, and all that came of it; the learners are told. Most begin anew.
        """
        self.start(model)

    @abstractmethod
    def discard(self) -> None:
        """Forget the updates since the latest model: too few came."""

    def remove(self, update: Update) -> None:  # noqa: B027 - most rules remember nobody
        """Take out the share of a learner that left; `update` is its latest. Only where the rule `needs_previous`."""


def made(rule: AggregationRule, version: int) -> Model:
    """Have a rule make a model, and look whether it can be published.

    Raises
    ------
    NoModel
        If it cannot: it is not finite, in the dtypes that it has.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # it is looked at here
        model = rule.aggregate(version)
    if (problem := unfit(model)) is not None:
        raise NoModel(f"{type(rule).__name__} made a model that cannot be published: {problem}")
    return model
