"""What learners and drivers can ask of a controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from metisfl_async.codec.frame import Assembly, Frame, Publication, check_size
from metisfl_async.controller.connection import Connection, StreamConnection
from metisfl_async.controller.dispatcher import Dispatcher
from metisfl_async.controller.listeners import DialledConnection, Listeners
from metisfl_async.controller.open_files import scarce
from metisfl_async.controller.registry import Member, Registry
from metisfl_async.controller.staging import Staging
from metisfl_async.controller.turns import Turns
from metisfl_async.controller.updates import GoAhead, Updates, header_of, next_frame
from metisfl_async.core.config import ControllerConfig, named_learners
from metisfl_async.core.errors import (
    ConnectionLost,
    MetisError,
    PeerTimeout,
    Superseded,
    UnexpectedMessage,
    UnknownLearner,
)
from metisfl_async.core.federation.commands import Command
from metisfl_async.core.federation.events import Event
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import FederationId, LearnerId, Token
from metisfl_async.core.messages import (
    Accept,
    ControllerMessage,
    Evaluated,
    Failed,
    Farewell,
    Heartbeat,
    Hello,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    Settled,
    StartRequest,
    UpdateReply,
    Welcome,
)
from metisfl_async.core.model import allocate
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.store.event_log import count_of
from metisfl_async.transport.base import Download, Stream

__all__ = ["Service"]

logger = logging.getLogger(__name__)

AWAY_S = 2.0  #: how long a learner whose connection is broken may take to come back and hear that it is over
FAREWELL_S = 30.0  #: how long learners may take to leave, after one of them got further in the final model


class Service:
    """Implements `ControllerService` around one federation."""

    def __init__(
        self,
        config: ControllerConfig,
        federation: Federation,
        registry: Registry,
        dispatcher: Dispatcher,
        staging: Staging,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.closing = asyncio.Event()
        self.listeners = Listeners(named_learners("learners", config.learners), self.closing)
        self._config, self._federation = config, federation
        self._registry, self._dispatcher = registry, dispatcher
        self._aggregator, self._post, self._clock = dispatcher.aggregator, dispatcher.post, clock
        self._downloads = Turns(config.max_downloads)
        self._updates = Updates(config, federation, registry, dispatcher, staging, clock=clock)
        self._federation_id = FederationId("")  # the driver's name for it, once started
        self._is_farewell = False
        self._has_warned = False  # that files are scarce
        # How much of a model each learner was sent at most, since the farewell began, and when one got further.
        self._furthest: dict[LearnerId, int] = {}
        self._moved_at = clock()
        self._someone_left = asyncio.Event()

    # --- learners --------------------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> JoinReply:
        if self.closing.is_set() and not self._is_farewell:
            raise ConnectionLost("controller", "it is closing")
        if request.address:
            await self.listeners.check(request.address, request.secret)
        member = self._registry.join(request.learner_id, request.token, request.address)
        config = self._config
        return JoinReply(
            member.id,
            member.token,
            member.incarnation,
            config.heartbeat_secs,
            config.lease_secs,
            config.max_model_bytes,
        )

    async def tasks(self, stream: Stream[LearnerMessage, ControllerMessage]) -> None:
        try:
            async with asyncio.timeout(self._config.lease_secs):
                hello = await stream.receive()
        except TimeoutError:
            raise PeerTimeout("a learner", f"no Hello came for lease_secs={self._config.lease_secs:g}") from None
        if not isinstance(hello, Hello):
            raise UnexpectedMessage(f"the first message on Tasks must be Hello, not {type(hello).__name__}")
        member = self._newcomer(hello.token)
        member.connection = connection = StreamConnection(stream)
        await self._converse(member, connection, hello)

    async def report(self, token: Token, message: LearnerMessage) -> None:
        member = self._registry.heard(token)
        if not member.address:
            raise UnexpectedMessage("Report is for a learner that has joined with its address; others open Tasks")
        if isinstance(message, Hello):
            member = self._newcomer(token)
            connection = self.listeners.connection(member.address, token, self._config.lease_secs)
            member.connection = connection
            self.listeners.begin(self._converse_or_end(member, connection, message), f"dials-{member.id}")
        elif isinstance(member.connection, DialledConnection):
            self._receive(member, message)
        else:
            raise UnknownLearner(token[:6] + "...")  # the conversation has ended; it may join again

    def _newcomer(self, token: Token) -> Member:
        member = self._registry.heard(token)
        if member.connection is not None:
            raise Superseded(member.id)
        return member

    async def _converse_or_end(self, member: Member, connection: Connection, hello: Hello) -> None:
        try:
            await self._converse(member, connection, hello)
        except MetisError:
            pass  # why it ended is in the LearnerLeft that followed
        except Exception as bug:  # noqa: BLE001 - it ends the controller
            self._dispatcher.fail(bug)

    async def _converse(self, member: Member, connection: Connection, hello: Hello) -> None:
        """Take in a learner that connects, and exchange messages until the connection ends."""
        reason = "its connection broke"
        try:
            self._post(self._welcome, member, connection, hello)
            if self._is_farewell:
                connection.send(self._farewell())
            await connection.run(lambda message: self._receive(member, message))
        except MetisError as error:
            reason = str(error)
            raise
        finally:
            member.connection = None
            self._someone_left.set()
            if self._registry.get(member.id) is member:
                self._post(self._federation.disconnected, member.id, reason)

    def _welcome(self, member: Member, connection: Connection, hello: Hello) -> list[Command]:
        verdicts, commands = self._federation.joined(member.id, hello.held)
        connection.send(Welcome(verdicts))
        return commands

    def _receive(self, member: Member, message: LearnerMessage) -> None:
        member = self._registry.heard(member.token)
        connection, federation = member.connection, self._federation
        assert connection is not None
        match message:
            case Heartbeat():
                connection.send(Heartbeat())
            case Accept(task_id):
                self._post(federation.accepted, member.id, task_id)
            case Evaluated(task_id, metrics):
                connection.send(Settled(task_id))
                self._post(federation.evaluated, member.id, task_id, metrics)
            case Failed(task_id, error_type, text):
                connection.send(Settled(task_id))
                self._post(federation.failed, member.id, task_id, error_type, text)
            case Hello():
                raise UnexpectedMessage("Hello is the first message on Tasks, and comes once")

    async def fetch_model(self, token: Token, version: int) -> Download:
        member = self._registry.heard(token)
        latest = self._published().model
        if latest.version < version:
            raise UnexpectedMessage(f"model version {version} is not here; the latest is {latest.version}")
        turn, sent_bytes = self._downloads.turn(latest.manifest.size_bytes), 0

        def begin() -> Publication:
            publication = self._published()  # without rounds, it may be newer than the one that was asked for
            self._federation.served(member.id, publication.model.version)
            return publication

        def moved(size_bytes: int) -> None:
            nonlocal sent_bytes
            turn.moved()
            member.heard(self._clock())
            self._federation.moved(member.id, sent=size_bytes)
            sent_bytes += size_bytes
            if sent_bytes > self._furthest.get(member.id, 0):
                self._furthest[member.id], self._moved_at = sent_bytes, self._clock()

        return Download(begin, moved, turn, member.pace)

    async def train_done(self, frames: AsyncIterator[Frame], go_ahead: GoAhead) -> UpdateReply:
        return await self._updates.receive(frames, go_ahead)

    async def leave(self, token: Token) -> None:
        self.forget(self._registry.heard(token), "it left")

    def watch_files(self) -> None:
        """Warn, once, when few more learners can connect."""
        if not self._has_warned and (files := scarce()) is not None:
            self._has_warned = True
            logger.warning(
                "%d learners are connected, and of the %d files that this process may open (ulimit -n), half are; "
                "each takes a second one while it sends a large update, and without one none can connect. %s",
                self._federation.num_connected,
                *files,
            )

    def forget(self, member: Member, reason: str) -> None:
        """Take a learner out of the federation."""
        self._registry.remove(member)
        self._post(self._federation.left, member.id, reason)
        self._someone_left.set()

    # --- the driver ------------------------------------------------------------------------------------------------

    async def set_initial_model(self, frames: AsyncIterator[Frame]) -> None:
        idle_secs = self._config.upload_idle_secs
        header = await header_of(frames, "global", idle_secs)
        check_size(header, self._config.max_model_bytes)
        if not header.manifest.tensors:
            raise UnexpectedMessage("the model has no tensors")
        assembly = Assembly(header, allocate(header.manifest.size_bytes))
        while not assembly.is_complete:
            if (frame := await next_frame(frames, "the driver", idle_secs)) is None:
                raise assembly.truncated()
            assembly.add(frame)
        model = assembly.model
        if (problem := await self._aggregator.threads.work(len(model.buffer), unfit, model)) is not None:
            raise UnexpectedMessage(f"the model cannot be used: {problem}")
        self._post(self._federation.model_given)
        await self._aggregator.set_first_model(model)

    async def start_training(self, request: StartRequest) -> None:
        if request.federation_id and request.federation_id == self._federation_id:
            return  # asked again because the answer was lost
        self._post(
            self._federation.start,
            request.signals,
            num_learners=request.num_learners,
            seed=request.seed,
            join_timeout_s=request.join_timeout_secs,
        )
        self._federation_id = request.federation_id
        self.listeners.name(request.learners)

    async def watch_events(self, federation_id: FederationId) -> AsyncIterator[list[Event]]:
        if federation_id and federation_id != self._federation_id:
            raise UnexpectedMessage("this controller runs another federation, or none: it was started again meanwhile")
        seen = 0
        while events := await self._dispatcher.events.after(seen):
            yield events
            seen += count_of(events)

    async def get_logs(self) -> AsyncIterator[RoundRecord]:
        for record in self._federation.records:
            yield record

    async def get_model(self) -> Publication:
        return self._published()

    async def stop_training(self, reason: str) -> None:
        self._post(self._federation.stop, reason or "stop was asked for")

    async def shut_down(self) -> None:
        """End the learners, then the controller: learners get the final model and some time to leave."""
        self._post(self._federation.stop, "the controller was shut down")
        self._is_farewell = True
        connected = [member for member in self._registry if member.connection is not None]
        for member in connected:
            assert member.connection is not None
            member.connection.send(self._farewell())
        with suppress(TimeoutError):
            async with asyncio.timeout(AWAY_S):
                await self._until_none(lambda member: True)
        self._furthest.clear()
        self._moved_at = self._clock()
        while (patience_s := self._moved_at + FAREWELL_S - self._clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._until_none(lambda member: member.connection is not None)
                    break
        else:
            logger.warning("some learners did not leave within %g s", FAREWELL_S)
        self.closing.set()

    async def _until_none(self, is_awaited: Callable[[Member], bool]) -> None:
        while any(is_awaited(member) for member in self._registry):
            self._someone_left.clear()
            await self._someone_left.wait()

    def _farewell(self) -> Farewell:
        publication = self._aggregator.publication
        return Farewell("the federation is over", publication.model.version if publication else None)

    def _published(self) -> Publication:
        if self._aggregator.publication is None:
            raise UnexpectedMessage("there is no global model yet")
        return self._aggregator.publication
