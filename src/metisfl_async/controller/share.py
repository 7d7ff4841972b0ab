"""One learner's share in a sum, on its way: to the federation, a stream that brings an update."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from metisfl_async.core.federation.commands import Receive
from metisfl_async.core.ids import StreamId
from metisfl_async.core.messages import UpdateReply

__all__ = ["Share"]


@dataclass(slots=True, eq=False)
class Share:
    """What the federation has said about it."""

    id: StreamId
    reply: asyncio.Future[UpdateReply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    wanted: Receive | None = None
    is_abandoned: bool = False

    def fold(self, aggregator: object, standing: str) -> None:
        """Do nothing: whoever brings the sum hands it on, whole."""
