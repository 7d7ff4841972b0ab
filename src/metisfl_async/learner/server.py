"""A learner that listens: it has a port, and its controller dials it for each task."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from metisfl_async.core.config import ClientParams, ServerParams, address_of
from metisfl_async.core.errors import ConfigError
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.listening import ListeningLink
from metisfl_async.learner.spool import Spool
from metisfl_async.learner.worker import Worker
from metisfl_async.transport.concurrency import to_the_end
from metisfl_async.transport.grpc_learner import GrpcLearnerServer

__all__ = ["ListeningLearner", "checked_address"]

logger = logging.getLogger(__name__)

GRACE_S = 1.0  #: for calls under way when the learner ends; the last one is the farewell's, and answered by then


class ListeningLearner:
    """Serves a learner while the context is open; inside, `run` takes part in the controller's federation."""

    def __init__(
        self,
        worker: Worker,
        controller: ClientParams,
        server_params: ServerParams,
        *,
        learner_id: str = "",
        public_address: str = "",
        connect_timeout_s: float | None = None,
        spool: Spool | None = None,
    ) -> None:
        self.address = public_address  #: where the controller dials it; known once the context is open
        self._server_params = server_params
        self._learner_id, self._connect_timeout_s = learner_id, connect_timeout_s
        self._worker, self._spool = worker, spool
        self._link = ListeningLink(controller, worker)
        self._server = GrpcLearnerServer(self._link, server_params)

    async def __aenter__(self) -> Self:
        await self._server.start()
        self.address = self.address or self._server_params.client_params(self._server.port).address
        self._link.own_address = self.address
        logger.info("%s listens on %s", self._learner_id or "a learner", self.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_the_end(self._server.stop(GRACE_S))

    async def run(self) -> None:
        """Take part until the federation is over."""
        learner_id = self._learner_id or self.address
        client = LearnerClient(self._link, self._worker, learner_id, self._connect_timeout_s, self._spool)
        await client.run()


def checked_address(server_params: ServerParams, public_address: str) -> str:
    """Check that others can know the address of a learner that listens."""
    if public_address:
        host, _, port = public_address.rpartition(":")
        if not port.isdecimal():
            raise ConfigError("public_address", public_address, "'host:port'")
        return ClientParams(host, int(port)).address
    if server_params.hostname in ("0.0.0.0", "::", "[::]"):
        allowed = "the host name by which the controller is told to dial this learner; or say it as public_address"
        raise ConfigError("server_params.hostname", server_params.hostname, allowed)
    if server_params.port == 0:
        allowed = "a port that the controller is told to dial; or say the whole address as public_address"
        raise ConfigError("server_params.port", server_params.port, allowed)
    return address_of(server_params.hostname, server_params.port)
