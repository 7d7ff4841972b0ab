"""A driver that comes to a federation which another one has started."""

from __future__ import annotations

from collections.abc import Mapping

from metisfl_async.core.config import ClientParams, ServerParams
from metisfl_async.core.errors import ConfigError, UnexpectedMessage
from metisfl_async.core.federation.events import Event, RoundFinished
from metisfl_async.core.federation.records import Failure
from metisfl_async.core.ids import FederationId
from metisfl_async.core.metrics import Json
from metisfl_async.driver.asking import ask, checked_question
from metisfl_async.driver.following import collect, end, follow, raise_failure, status_of, stop
from metisfl_async.driver.reached import Reached
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.watching import Watchers, checked_watchers, watched
from metisfl_async.learner.stopping import STOP_TIMEOUT_S
from metisfl_async.store.event_log import EventLog, EventStream
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.grpc_link import GrpcLink

__all__ = ["AttachedSession"]


class AttachedSession:
    """Follows, stops, or fetches the result of the federation that runs, or has ended, at a controller.

    `DriverSession.attach` makes one. It ends neither the controller nor its learners, unless it is told to.
    """

    def __init__(self, controller: ClientParams | ServerParams, *, lost_secs: float | None) -> None:
        if not isinstance(controller, ClientParams | ServerParams):
            raise ConfigError("controller", controller, "the ClientParams or ServerParams of a remote controller")
        self._params = controller.client_params() if isinstance(controller, ServerParams) else controller
        self._lost_secs = lost_secs
        self._log = EventLog()
        self._reached = Reached(None)
        self.result: FederationResult | None = None  #: once it is over

    async def run(self, *, shut_down: bool = False, watch: Watchers[AttachedSession] = ()) -> FederationResult:
        """Follow the federation to its end, and fetch its result.

        Parameters
        ----------
        shut_down : bool
            End the learners and the controller afterwards, as the driver does that has started them.
        watch : sequence of callables
            Run these beside it; see `DriverSession.run`.

        Raises
        ------
        UnexpectedMessage
            If no federation runs there.
        QuorumLost, NoModel, StoreError
            If it ended as a failure. `result` holds what was reached.
        TransportError
            If the controller cannot be reached for `lost_secs`.
        """
        link, self._reached, self.result = GrpcLink(self._params), Reached(None), None
        if self._log.is_closed:
            self._log = EventLog()
        async with watched(self, checked_watchers(watch), self._log, STOP_TIMEOUT_S):
            try:
                federation_id = await self._find(link)
                finished = await follow(link, federation_id, self._note, self._lost_secs)
                self._reached.end(finished.reason, finished.ending)
                self.result = await collect(link, federation_id, self._reached, self._lost_secs)
                if shut_down:
                    await end(link, federation_id)
            finally:
                await link.close()
        raise_failure(finished)
        return self.result

    async def stop(self, reason: str = "stop was asked for") -> None:
        """End the federation in order."""
        link = GrpcLink(self._params)
        try:
            await stop(link, await self._find(link), reason, self._lost_secs)
        finally:
            await link.close()

    async def ask(
        self, method: str, params: Mapping[str, Json] | None = None, *, timeout_secs: float = 60.0
    ) -> dict[str, Json | Failure]:
        """Ask the learners that are connected now; see `DriverSession.ask`."""
        link = GrpcLink(self._params)
        try:
            return await ask(link, checked_question(method, params, timeout_secs), self._lost_secs)
        finally:
            await link.close()

    def events(self) -> EventStream:
        """Follow `run`: all events that the controller still has, then each as it happens."""
        return self._log.follow()

    async def _find(self, link: ControllerLink) -> FederationId:
        status = await status_of(link, self._lost_secs)
        if not status.federation_id:
            raise UnexpectedMessage(f"no federation runs at {link.address}, and none has ended there")
        return status.federation_id

    def _note(self, event: Event) -> None:
        self._reached.note(event)
        if not isinstance(event, RoundFinished) or not event.record.was_cut:
            self._log.append(event)
