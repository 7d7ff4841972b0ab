"""Listens to a controller, and notices when its connection has gone silent."""

from __future__ import annotations

from collections.abc import Sequence

from metisfl_async.core.errors import ConnectionLost, PeerTimeout
from metisfl_async.core.messages import ControllerMessage, JoinReply, LearnerMessage
from metisfl_async.transport.base import Stream
from metisfl_async.transport.concurrency import Patience

__all__ = ["Hearing"]


class Hearing:
    """Receives what one Tasks stream brings."""

    def __init__(
        self, address: str, joined: JoinReply, stream: Stream[Sequence[ControllerMessage], LearnerMessage]
    ) -> None:
        self._address, self._stream = address, stream
        #: How long a silent connection is taken for a good one. It is shorter than the controller's lease: a connection
        #: that was forgotten on its way, as NATs and VPNs do, is made again before the controller gives us up. Each of
        #: our heartbeats is answered.
        self.patience_s = max(joined.lease_secs / 2, 1.5 * joined.heartbeat_secs)
        self._patience: Patience | None = None  # while the next message is waited for

    async def next(self) -> Sequence[ControllerMessage]:
        """Wait for what is said next."""
        try:
            async with Patience(self.patience_s) as self._patience:
                messages = await self._stream.receive()
        except TimeoutError:
            raise PeerTimeout(self._address, f"silent for {self.patience_s:g} s") from None
        finally:
            self._patience = None
        if messages is None:
            raise ConnectionLost(self._address, "the controller ended the connection")
        return messages

    def renew(self) -> None:
        """Be as patient again: the controller lives, what it says may wait behind the model that it sends."""
        if self._patience is not None:
            self._patience.renew()
