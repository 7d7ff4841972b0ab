"""Takes in sums of updates that were folded elsewhere: to the federation, each learner's update comes by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from metisfl_async.controller.aggregator import Aggregator, Post
from metisfl_async.controller.share import Share
from metisfl_async.controller.updates import Updates
from metisfl_async.controller.upload import SumUpload
from metisfl_async.core.federation.inputs import Admit, Arrived, Moved, Rejected
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum

__all__ = ["Sums"]


class Sums:
    """Receives sums, whole and in one step, and hands them to the aggregator."""

    def __init__(self, updates: Updates, aggregator: Aggregator, post: Post) -> None:
        self._updates, self._aggregator, self._post = updates, aggregator, post

    async def receive(self, partial: PartialSum, turn: asyncio.Event | None) -> Sequence[UpdateReply | None]:
        """Take in a sum; it counts whole or not at all.

        From now on its learners have reported, whatever their deadline. With a `turn`, it is folded once that is set:
        so the order of sums may be another than that of their arrival.

        Returns
        -------
        sequence of UpdateReply or None
            For each contribution, what became of it; None where the controller ended before.
        """
        contributions, size_bytes = partial.contributions, partial.manifest.size_bytes
        with self._updates.shares(len(contributions)) as shares:
            for share, contribution in zip(shares, contributions, strict=True):
                self._post(Admit(share.id, contribution.learner, contribution.task_id, partial.version))
            if any(share.wanted is None or share.reply.done() for share in shares):
                self._refuse(shares, "the sum holds an update that is not wanted any more")
            else:
                for share, contribution in zip(shares, contributions, strict=True):
                    self._post(Moved(contribution.learner, received=size_bytes))
                    self._post(Arrived(share.id))
                if turn is not None:
                    await turn.wait()
                ids = tuple(share.id for share in shares)
                self._aggregator.submit(
                    SumUpload(ids, partial, lambda: not any(share.reply.done() for share in shares))
                )
            if not self._updates.is_closed:
                await asyncio.wait([share.reply for share in shares])
            return [share.reply.result() if _is_told(share) else None for share in shares]

    def refuse(self, learner: LearnerId, task_id: TaskId, error_type: str, reason: str) -> None:
        """Take note of an update that cannot be in a sum."""
        with self._updates.shares(1) as (share,):
            self._post(Admit(share.id, learner, task_id))
            self._refuse([share], reason, error_type)

    def _refuse(self, shares: Sequence[Share], reason: str, error_type: str = "NotWanted") -> None:
        for share in shares:
            if not share.reply.done():
                self._post(Rejected(share.id, error_type, reason))


def _is_told(share: Share) -> bool:
    return share.reply.done() and not share.reply.cancelled()
