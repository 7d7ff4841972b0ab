"""Hands in what came of simulated learners' tasks, as if each of them did."""

from __future__ import annotations

import asyncio
import logging

from metisfl_async.codec.frame import Header
from metisfl_async.controller.crowd import Crowd
from metisfl_async.controller.job import Job
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.federation.inputs import Evaluated, Failed
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.messages import Outcome
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum
from metisfl_async.learner.failing import FailureLog
from metisfl_async.simulation.errand import Done, Single

__all__ = ["HandingIn"]

logger = logging.getLogger(__name__)


class HandingIn:
    """Tells a federation what came of errands."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd, self._failures = crowd, FailureLog()
        self._told: set[str] = set()  # what was left out, and warned of

    async def take(self, job: Job, done: Done, turn: asyncio.Event | None) -> None:
        """Hand in all of it; sums one after another, each in its turn."""
        for what, why in done.left_out.items():
            if what not in self._told:
                self._told.add(what)
                logger.warning("%s of simulated learners is left out: it is %s", what, why)
        for task, raised in done.failed:
            offer = task.offer
            self._failures.tell(
                task.learner, offer.kind, f" in round {offer.round_number}", raised.error(), raised.text
            )
            job.post(Failed(task.learner, offer.task_id, raised.name, raised.text))
        for task, metrics in done.evaluated:
            job.post(Evaluated(task.learner, task.offer.task_id, metrics))
        for task, error_type, reason in done.refused:
            self._warn(task.learner, task.offer.round_number, reason)
            job.sums.refuse(task.learner, task.offer.task_id, error_type, reason)
        try:
            for single in done.singles:
                await self._take_single(job, single)
            if done.parts is not None:
                await self._take_sum(job, done, turn)
        finally:
            done.discard()

    async def _take_sum(self, job: Job, done: Done, turn: asyncio.Event | None) -> None:
        assert done.parts is not None
        assert done.model is not None
        manifest, version = done.model
        contributions, form = tuple(done.contributions), job.sum_form
        partial = PartialSum(manifest, version, done.parts.unpack(), contributions, form)
        for share, reply in zip(partial.contributions, await job.sums.receive(partial, turn), strict=True):
            if reply is not None and reply.outcome is Outcome.REFUSED:
                logger.warning("an update of %s does not count: %s", share.learner, reply.reason)

    async def _take_single(self, job: Job, single: Single) -> None:
        offer, model = single.task.offer, single.model.unpack()
        manifest = model.manifest.unmarked if offer.kind is TaskKind.TRAIN else model.manifest
        header = Header(
            "update",
            manifest,
            model.version,
            task_id=offer.task_id,
            metrics=single.metrics,
            metadata=single.metadata,
            federation_id=offer.model.federation_id,
        )
        try:
            reply = await self._crowd.send(job, single.task.learner, header, model)
        except ConnectionLost:  # the controller ends
            return
        if reply.outcome is Outcome.REFUSED:
            self._warn(single.task.learner, offer.round_number, reply.reason)

    def _warn(self, learner: str, round_number: int, reason: str) -> None:
        logger.warning("%s: the update of round %d does not count: %s", learner, round_number, reason)
