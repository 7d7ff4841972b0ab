"""Learners that listen, for tests: each on a free port, named to a controller once that is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from metisfl_async import ClientParams, Learner, ServerParams
from metisfl_async.core.ids import Token
from metisfl_async.learner.server import ListeningLearner
from metisfl_async.learner.worker import Worker
from metisfl_async.transport.grpc_learner import DialledLearner


class Listener:
    """A learner that listens and takes part."""

    def __init__(self, learner: ListeningLearner, params: ClientParams, task: asyncio.Task[None]) -> None:
        self.learner, self.params, self.task = learner, params, task

    @property
    def is_connected(self) -> bool:
        """Whether it has joined, and dealt with the welcome."""
        conversation = self.learner._link._conversation
        latest = conversation._latest if conversation is not None else None
        return latest is not None and latest.was_dealt_with.done()

    @property
    def token(self) -> Token:
        """What the controller gave it."""
        joined = self.learner._link._joined
        assert joined is not None
        return joined.token

    @property
    def dialled(self) -> DialledLearner:
        return DialledLearner(self.params)


@asynccontextmanager
async def listening(
    controller: ClientParams,
    learner: Learner,
    learner_id: str = "",
    *,
    server_params: ServerParams | None = None,
    public_address: str = "",
) -> AsyncIterator[Listener]:
    """Run a learner; leaving the context is a crash: it says nothing to anybody."""
    server_params = server_params or ServerParams()
    listener = ListeningLearner(
        Worker(learner, "thread"), controller, server_params, learner_id=learner_id, public_address=public_address
    )
    async with listener:
        params = server_params.client_params(listener._server.port)
        task = asyncio.create_task(listener.run(), name=f"listening-{learner_id}")
        try:
            yield Listener(listener, params, task)
        finally:
            task.cancel()
            await asyncio.wait([task])


def connections_to(port: int) -> int:
    """Count the connections of this process to a port."""
    made = psutil.Process().net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and bool(c.raddr) and c.raddr.port == port for c in made)
