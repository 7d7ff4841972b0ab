"""What the aggregator folds: one learner's update, or a sum of many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from metisfl_async.codec.frame import Header
from metisfl_async.controller.staging import Room
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId, StreamId, TaskId
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.model import Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.core.strategies.aggregation.contributors import num_learners_of
from metisfl_async.core.strategies.aggregation.infinities import Infinities
from metisfl_async.core.strategies.aggregation.partial_sum import Contribution, PartialSum
from metisfl_async.core.strategies.aggregation.resemblance import Portrait, portrait
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["SumUpload", "Upload", "folded"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A whole, undamaged update in its staging room; the aggregator gives the room back."""

    stream: StreamId
    learner: LearnerId
    kind: TaskKind
    header: Header
    model: Model  #: or the coded one, where the header says so
    weight: float
    room: Room
    is_finite: bool
    reply: asyncio.Future[UpdateReply]  #: done once it is not wanted any more
    standing: str = ""  #: of first weights: how the federation stands with them

    def unfit(self, infinities: Infinities | None) -> str | None:
        """Say what of it is not finite, but for what is so in the global model."""
        if infinities is not None and self.header.kind != "sum":  # whoever folds one leaves them out
            infinities.clear(self.model)
        if self.is_finite:
            return None
        return unfit(self.model, is_first=self.kind is TaskKind.GET_WEIGHTS)

    def first_weights(self) -> Model:
        """Copy first weights out of their staging room."""
        update = self.model
        model = Model(update.manifest, allocate(len(update.buffer)), version=0)
        model.buffer[:] = update.buffer
        return model

    @property
    def num_relayed(self) -> int | None:
        """How many learners' updates are in it, if it is a sum."""
        return num_learners_of(self.header.metadata) if self.header.kind == "sum" else None

    def fold_sum(self, rule: AggregationRule, base: Model) -> Portrait:
        """Fold a sum that came in one update, and look what its mean is like: one learner's, whoever contributed.

        Raises
        ------
        UnexpectedMessage
            If its mean is not finite, as a mean of finite updates would be.
        """
        header, version = self.header, self.model.version
        total = rule.sum_form(header.manifest)
        total.unpack(self.model)
        if (problem := total.problem_of(total.parts(), num_learners_of(header.metadata))) is not None:
            raise UnexpectedMessage(problem)
        mean = total.divided_by(self.weight, version)
        if (problem := unfit(mean)) is not None:
            raise UnexpectedMessage(f"the mean of the sum: {problem}")
        seen = portrait(mean, base)
        share = Contribution(self.learner, TaskId(header.task_id), self.weight, seen)
        rule.fold_sum(PartialSum(header.manifest, version, total.parts(), (share,), rule.sum_form))
        return seen


def folded(rule: AggregationRule, update: Update, base: Model) -> Portrait:
    """Fold an update, and look what it is like."""
    seen = portrait(update.model, base)
    rule.fold(update)
    return seen


@dataclass(frozen=True, slots=True)
class SumUpload:
    """A sum of several learners' updates, in memory that is not ours; it counts whole or not at all."""

    streams: tuple[StreamId, ...]  #: one for each contribution
    partial: PartialSum
    is_wanted: Callable[[], bool]
