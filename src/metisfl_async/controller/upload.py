"""What the aggregator folds: one learner's update, or a sum of many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from metisfl_async.codec.frame import Header
from metisfl_async.controller.staging import Room
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId, StreamId
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.model import Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.core.strategies.aggregation.infinities import Infinities
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum

__all__ = ["SumUpload", "Upload"]


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
        if infinities is not None:
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


@dataclass(frozen=True, slots=True)
class SumUpload:
    """A sum of several learners' updates, in memory that is not ours; it counts whole or not at all."""

    streams: tuple[StreamId, ...]  #: one for each contribution
    partial: PartialSum
    is_wanted: Callable[[], bool]
