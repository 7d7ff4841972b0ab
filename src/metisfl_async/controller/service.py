"""What learners and drivers can ask of a controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress

from metisfl_async.codec.frame import Frame
from metisfl_async.codec.publication import Publication
from metisfl_async.controller.conversations import Conversations
from metisfl_async.controller.farewell import Farewells
from metisfl_async.controller.first_weights import FirstWeights
from metisfl_async.controller.jobs import Jobs
from metisfl_async.controller.latest import Latest
from metisfl_async.controller.listeners import Listeners
from metisfl_async.controller.open_files import scarce
from metisfl_async.controller.questions import Questions
from metisfl_async.controller.registry import Member, Registry
from metisfl_async.controller.snapshot import Snapshot, snapshot
from metisfl_async.controller.threads import Threads
from metisfl_async.controller.turns import Turn, Turns
from metisfl_async.controller.updates import GoAhead, header_of
from metisfl_async.core.access import LOCAL, Caller, Identity, Role
from metisfl_async.core.codecs import RAW
from metisfl_async.core.config import ControllerConfig, ServerParams, named_learners
from metisfl_async.core.errors import ConnectionLost, Superseded, UnexpectedMessage, UnknownFederation
from metisfl_async.core.federation.events import Told
from metisfl_async.core.federation.inputs import CentralEvaluation, Moved, Served, Stop
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, ModelRef, Token
from metisfl_async.core.messages import (
    Afterwards,
    Answer,
    AskRequest,
    ControllerMessage,
    Farewell,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    StartRequest,
    Status,
    UpdateReply,
)
from metisfl_async.store.event_log import MOST, count_of
from metisfl_async.transport.audit import Audit
from metisfl_async.transport.base import Download, Stream

__all__ = ["Service"]

logger = logging.getLogger(__name__)

CLOSING_S = 1.0  #: for learners to hear that the controller closes
CATCH_UP_BYTES = 4 * 2**20  #: for which a watcher that catches up counts: two go side by side
CONCLUDE_S = 10.0  #: for noting that a federation's driver has the result


class Service:
    """Implements `ControllerService`: what concerns one federation goes to its job."""

    def __init__(
        self,
        config: ControllerConfig,
        registry: Registry,
        jobs: Jobs,
        threads: Threads,
        *,
        clock: Callable[[], float],
        server_params: ServerParams | None = None,
        is_led: bool = False,
    ) -> None:
        self._is_led = is_led
        self.closing = asyncio.Event()
        self.listeners = Listeners(named_learners("learners", config.learners), self.closing, server_params)
        self.farewells = Farewells(registry, config.farewell_timeout_secs, clock)
        self.questions = Questions(registry, config.max_relayed_learners)
        self.conversations = Conversations(
            config, registry, jobs, self.listeners, self.farewells, questions=self.questions
        )
        self._config, self._registry, self._jobs = config, registry, jobs
        self._clock = clock
        self._first_weights = FirstWeights(config, jobs, threads, clock)
        self._downloads, self._fetches = Turns(config.max_downloads), Latest()
        self._catching_up = Turns()
        self._audit = Audit(has_port=server_params is not None)
        self._has_warned = False  # that files are scarce
        self._drivers = 0  # how many watch
        self._driver_at = clock()  # when the last one was there
        self._is_kept = False  # whether the last one said that others will come

    def snapshot(self) -> Snapshot:
        return snapshot(self._registry, self._jobs.current, self._downloads)

    # --- learners --------------------------------------------------------------------------------------------------

    async def join(self, caller: Caller, request: JoinRequest) -> JoinReply:
        if self.closing.is_set() and self.farewells.message is None:
            raise ConnectionLost("controller", "it is closing")
        reply = await self.conversations.join(caller, request)
        self._audit.note("joined", caller, learner=reply.learner_id, incarnation=reply.incarnation)
        return reply

    async def tasks(self, caller: Caller, stream: Stream[LearnerMessage, Sequence[ControllerMessage]]) -> None:
        await self.conversations.tasks(caller, stream)

    async def report(self, caller: Caller, token: Token, message: LearnerMessage) -> None:
        await self.conversations.report(caller, token, message)

    async def leave(self, caller: Caller, token: Token) -> None:
        self.conversations.forget(self._registry.heard(token, caller), "it left")

    async def fetch_model(self, caller: Caller, token: Token, model: ModelRef, codec: str = RAW) -> Download:
        member = self._registry.heard(token, caller)
        job = self._jobs.of(model.federation_id)
        latest = job.published().model
        if latest.version < model.version:
            raise UnexpectedMessage(f"model version {model.version} is not here; the latest is {latest.version}")
        turn, sent_bytes, left_bytes = self._downloads.turn(latest.manifest.size_bytes), 0, 0

        def begin() -> Publication:
            nonlocal left_bytes
            publication = job.published()  # without rounds, it may be newer than the one that was asked for
            job.post(Served(member.id, publication.model.version))
            publication = publication.in_codec(codec)
            left_bytes = publication.model.manifest.size_bytes
            return publication

        def moved(size_bytes: int) -> None:
            nonlocal sent_bytes, left_bytes
            turn.moved()
            member.heard(self._clock())
            sent_bytes, had_bytes, left_bytes = sent_bytes + size_bytes, left_bytes, left_bytes - size_bytes
            job.post(Moved(member.id, sent=size_bytes, is_all=left_bytes <= 0 < had_bytes))
            self.farewells.moved(member.id, sent_bytes)

        return Download(begin, moved, self._alone(member, turn), member.pace)

    @asynccontextmanager
    async def _alone(self, member: Member, turn: Turn) -> AsyncIterator[None]:
        """Wait for the turn of a learner's download, which ends its older one."""
        async with self._fetches.of(member.id, Superseded(member.id)), turn:
            yield

    async def train_done(
        self, caller: Caller, token: Token, frames: AsyncIterator[Frame], go_ahead: GoAhead
    ) -> UpdateReply:
        member = self._registry.heard(token, caller)
        header = await header_of(frames, ("update", "sum"), member.id, self._config.upload_idle_secs)
        return await self._jobs.of(header.federation_id).updates.receive(member, header, frames, go_ahead)

    def revoked(self, identity: Identity) -> None:
        """Take a learner out whose credential is not good any more."""
        member = self._registry.get(LearnerId(identity.name)) if identity.role is Role.LEARNER else None
        if member is not None and not member.is_simulated:  # those have no credentials
            self.conversations.forget(member, "its certificate or token was revoked")

    def watch_files(self) -> None:
        """Warn, once, when few more learners can connect."""
        if not self._has_warned and (files := scarce()) is not None:
            self._has_warned = True
            logger.warning(
                "%d learners are connected, and of the %d files that this process may open (ulimit -n), half are; "
                "each takes a second one while it sends a large update, and without one none can connect. %s",
                sum(member.connection is not None for member in self._registry),
                *files,
            )

    # --- the driver ------------------------------------------------------------------------------------------------

    async def without_driver(self) -> None:
        """End what nobody follows: a driver that is dead does not leave controller and learners waiting for ever."""
        patience_s = self._config.driver_lost_secs
        while patience_s is not None:
            await asyncio.sleep(patience_s / 8)
            job = self._jobs.current
            if job is None or not job.has_begun or self._drivers or self._clock() - self._driver_at < patience_s:
                continue
            if job.is_over and self._is_kept:
                continue
            if not job.is_over and self._config.on_driver_lost == "finish":
                continue
            reason = f"no driver was there for driver_lost_secs={patience_s:g}"
            logger.warning("%s; the federation ends, and the controller with it", reason)
            job.post(Stop(reason))
            await job.over.wait()
            await self.shut_down(LOCAL, job.id, keep_running=False)
            return
        await asyncio.Event().wait()

    async def status(self, caller: Caller) -> Status:
        self._driver_at = self._clock()
        job = self._jobs.current
        if job is None:
            return Status(NO_FEDERATION)
        federation = job.federation
        standing = federation.standing
        signals = standing.signals if job.has_begun else None
        return Status(job.id, federation.is_finished, signals, standing.evaluates, standing.best)

    async def set_initial_model(self, caller: Caller, frames: AsyncIterator[Frame]) -> None:
        self._check_not_led()
        await self._first_weights.receive(frames)

    async def start_training(self, caller: Caller, request: StartRequest) -> None:
        self._check_not_led()
        self._driver_at = self._clock()
        await self._jobs.start(request)
        self._is_kept = False
        self._audit.note("started", caller, federation=request.federation_id)
        self.listeners.name(request.learners)

    async def watch_events(
        self, caller: Caller, federation_id: FederationId, seen: int, run: str
    ) -> AsyncGenerator[list[Told], None]:
        job = self._jobs.of(federation_id)
        log, seen = job.events, seen if run == job.run_id else 0
        self._drivers += 1
        try:
            while events := await log.after(seen):
                # Who is behind waits for its turn: a hundred that catch up at once would leave the rounds no time.
                is_behind = len(events) == MOST
                async with self._catching_up.turn(CATCH_UP_BYTES) if is_behind else nullcontext():
                    yield events
                seen += count_of(events)
            if not job.is_over and job.keeper.store.is_durable:
                raise ConnectionLost("controller", "it was closed, and may be started again")
        finally:
            self._drivers -= 1
            self._driver_at = self._clock()

    async def get_logs(self, caller: Caller, federation_id: FederationId) -> AsyncGenerator[RoundRecord, None]:
        async with aclosing(self._jobs.of(federation_id).records()) as records:
            async for record in records:
                yield record

    async def get_model(self, caller: Caller, federation_id: FederationId, best: bool = False) -> Download:
        self._driver_at = self._clock()
        job = self._jobs.of(federation_id)
        begin = job.best if best else job.published
        begin()  # there is one, or it is said now
        # A reader that stands still keeps a model that may be an old one: each party keeps one.
        alone = self._fetches.of(("GetModel", caller.identity or caller.peer), Superseded(str(caller)))
        return Download(begin, lambda _: None, alone)

    async def ask(self, caller: Caller, request: AskRequest) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
        self._driver_at = self._clock()
        self._audit.note("asked", caller, method=request.method)
        if request.learners:
            self.listeners.name(request.learners)
        async with aclosing(self.questions.ask(request)) as answers:
            async for answer in answers:
                yield answer

    async def evaluated(self, caller: Caller, federation_id: FederationId, report: CentralEvaluation) -> None:
        self._jobs.of(federation_id).post(report)

    async def stop_training(self, caller: Caller, federation_id: FederationId, reason: str) -> None:
        self._check_not_led()
        await self._jobs.until_begun(federation_id)
        self._jobs.of(federation_id).post(Stop(reason or "stop was asked for"))
        self._audit.note("stopped", caller, federation=federation_id, why=reason)

    async def shut_down(self, caller: Caller, federation_id: FederationId, keep_running: bool) -> None:
        """End a federation, and the learners and the controller with it, unless they are to wait for the next one.

        Learners get the final model. Of a controller on which nothing ever ran, the id is empty.
        """
        self._check_not_led()
        await self.end(caller, federation_id, keep_running)

    async def end(self, caller: Caller, federation_id: FederationId, keep_running: bool) -> None:
        """Do what `shut_down` says, also for a relay that is its controller's driver."""
        await self._jobs.until_begun(federation_id)
        job = self._jobs.current
        if self._jobs.id != federation_id:
            raise UnknownFederation(federation_id, self._jobs.id)
        self._is_kept = keep_running
        self._audit.note("shut down", caller, federation=federation_id, keep_running=keep_running)
        if job is not None:
            job.post(Stop("the controller was shut down"))
        if keep_running:
            if job is not None:
                await job.over.wait()
            self.farewells.tell(self._farewell("the federation is over", Afterwards.STAY))
        else:
            farewell = self._farewell("the federation is over", Afterwards.LEAVE)
            await self.farewells.say(farewell, lambda: () if job is None else job.federation.returning)
        if job is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONCLUDE_S):
                    await job.conclude()
        if not keep_running:
            self.closing.set()

    def _check_not_led(self) -> None:
        if self._is_led:
            raise UnexpectedMessage("this is a relay: its federations begin and end with its parent's")

    async def say_whether_it_returns(self, is_durable: bool) -> None:
        """Tell learners, before the controller closes, whether it will be back."""
        job = self._jobs.current
        if self.closing.is_set() or not any(member.connection is not None for member in self._registry):
            return
        if job is None or self._is_led or (is_durable and not job.is_over):
            farewell = Farewell("the controller was closed, and may be started again", None, Afterwards.RETURN)
        else:
            farewell = self._farewell("the controller was closed", Afterwards.LEAVE)
        self.farewells.tell(farewell)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await self.farewells.until_none_is_connected()

    def hang_up(self) -> None:
        """End all conversations: those in memory do not end with a server."""
        for member in self._registry:
            if member.connection is not None:
                member.connection.close()

    def _farewell(self, reason: str, then: Afterwards) -> Farewell:
        job = self._jobs.current
        publication = None if job is None else job.aggregator.publication
        final = None if job is None or publication is None else ModelRef(job.id, publication.model.version)
        return Farewell(reason, final, then)
