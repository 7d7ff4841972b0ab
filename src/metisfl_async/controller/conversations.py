"""Learners come, talk and go: what they say goes to the federation that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from metisfl_async.controller.connection import OutboxConnection, StreamConnection
from metisfl_async.controller.farewell import Farewells
from metisfl_async.controller.jobs import Jobs
from metisfl_async.controller.listeners import DialledConnection, Listeners
from metisfl_async.controller.questions import Questions
from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core import messages as said
from metisfl_async.core.access import Caller
from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import (
    MetisError,
    PeerTimeout,
    Superseded,
    UnexpectedMessage,
    UnknownLearner,
    WrongProtocol,
)
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.tasks import Verdict
from metisfl_async.core.ids import Token
from metisfl_async.core.messages import (
    OWN_CONNECTION_BYTES,
    PROTOCOL,
    ControllerMessage,
    JoinReply,
    JoinRequest,
    LearnerMessage,
)
from metisfl_async.transport.base import Stream

__all__ = ["Conversations"]

#: While there are so few learners, their updates go over the connections they have up to this size, and gRPC may keep a
#: megabyte for each: making another one takes CPU time, most of all with TLS, and begins slowly on a long way.
FEW, FEW_OWN_CONNECTION_BYTES = 64, 2**23


class Conversations:
    """Takes learners in, and exchanges messages with each until its connection ends."""

    def __init__(
        self,
        config: ControllerConfig,
        registry: Registry,
        jobs: Jobs,
        listeners: Listeners,
        farewells: Farewells,
        *,
        questions: Questions,
    ) -> None:
        self._config, self._registry, self._jobs = config, registry, jobs
        self._listeners, self._farewells, self._questions = listeners, farewells, questions
        self.relays: tuple[str, ...] = ()  #: of a relay: its key, then those of the relays above it
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  #: fails with a bug

    async def join(self, caller: Caller, request: JoinRequest) -> JoinReply:
        if request.protocol != PROTOCOL:
            raise WrongProtocol("the learner", request.protocol, PROTOCOL)
        if request.address:
            await self._listeners.check(request.address, request.secret)
        member = self._registry.join(request.learner_id, request.token, caller, request.address)
        config = self._config
        return JoinReply(
            member.id,
            member.token,
            member.incarnation,
            config.heartbeat_secs,
            config.lease_secs,
            config.max_model_bytes,
            self._jobs.id,
            config.update_codec,
            config.download_codec,
            self.relays,
            FEW_OWN_CONNECTION_BYTES if len(self._registry) <= FEW else OWN_CONNECTION_BYTES,
        )

    async def tasks(self, caller: Caller, stream: Stream[LearnerMessage, Sequence[ControllerMessage]]) -> None:
        try:
            async with asyncio.timeout(self._config.lease_secs):
                hello = await stream.receive()
        except TimeoutError:
            raise PeerTimeout("a learner", f"no Hello came for lease_secs={self._config.lease_secs:g}") from None
        if not isinstance(hello, said.Hello):
            raise UnexpectedMessage(f"the first message on Tasks must be Hello, not {type(hello).__name__}")
        member = self._newcomer(hello.token, caller)
        member.connection = connection = StreamConnection(stream, member.unasked)
        await self._converse(member, connection, hello)

    async def report(self, caller: Caller, token: Token, message: LearnerMessage) -> None:
        member = self._registry.heard(token, caller)
        if not member.address:
            raise UnexpectedMessage("Report is for a learner that has joined with its address; others open Tasks")
        if isinstance(message, said.Hello):
            member = self._newcomer(token, caller)
            connection = self._listeners.connection(member.address, token, self._config.lease_secs, member.unasked)
            member.connection = connection
            self._listeners.begin(self._converse_or_end(member, connection, message), f"dials-{member.id}")
        elif isinstance(member.connection, DialledConnection):
            self._receive(member, message)
            await member.connection.hold_back()
        else:
            raise UnknownLearner(token[:6] + "...")  # the conversation has ended; it may join again

    def forget(self, member: Member, reason: str) -> None:
        """Take a learner out of the federation."""
        self._registry.remove(member)
        self._questions.left(member.id, reason)
        self._jobs.post(happened.Left(member.id, reason))
        self._farewells.changed()

    def _newcomer(self, token: Token, caller: Caller) -> Member:
        member = self._registry.heard(token, caller)
        if member.connection is not None:
            raise Superseded(member.id)
        return member

    async def _converse_or_end(self, member: Member, connection: OutboxConnection, hello: said.Hello) -> None:
        try:
            await self._converse(member, connection, hello)
        except MetisError:
            pass  # why it ended is in the LearnerLeft that followed
        except Exception as bug:  # noqa: BLE001 - it ends the controller
            if not self.broken.done():
                self.broken.set_exception(bug)

    async def _converse(self, member: Member, connection: OutboxConnection, hello: said.Hello) -> None:
        """Take in a learner that connects, and exchange messages until the connection ends."""
        reason = "its connection broke"
        try:
            if self._jobs.current is None:
                why = "no federation runs here: was the controller started again?"
                connection.send(said.Welcome({held.task_id: (Verdict.DISCARD, why) for held in hello.held}))
            self._jobs.post(happened.Joined(member.id, hello.held))
            self._questions.joined(member)
            self._farewells.changed()
            if self._farewells.message is not None:
                connection.send(self._farewells.message)
            await connection.run(lambda message: self._receive(member, message))
        except MetisError as error:
            reason = str(error)
            raise
        finally:
            member.connection = None
            self._farewells.changed()
            if self._registry.get(member.id) is member:
                self._jobs.post(happened.Disconnected(member.id, reason))

    def _receive(self, member: Member, message: LearnerMessage) -> None:
        member = self._registry.heard(member.token)
        connection, post = member.connection, self._jobs.post
        assert connection is not None
        match message:
            case said.Heartbeat():
                connection.send(said.Heartbeat())
            case said.Accept(task_id):
                post(happened.Accepted(member.id, task_id))
            case said.Evaluated(task_id, metrics, contributors):
                connection.send(said.Settled(task_id))
                post(happened.Evaluated(member.id, task_id, metrics, contributors))
            case said.Failed(task_id, error_type, text):
                connection.send(said.Settled(task_id))
                post(happened.Failed(member.id, task_id, error_type, text))
            case said.Answer():
                self._questions.answered(member.id, message)
            case said.Hello():
                raise UnexpectedMessage("Hello is the first message on Tasks, and comes once")
