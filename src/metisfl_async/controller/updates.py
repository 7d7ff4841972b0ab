"""Receives updates as far as there is room, as long as they are wanted; each learner is told what became of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from metisfl_async.codec.frame import Assembly, Data, Frame, Header, check_size, content_of
from metisfl_async.controller.aggregator import Aggregator, Post
from metisfl_async.controller.codecs import Codecs
from metisfl_async.controller.registry import Member
from metisfl_async.controller.share import Share
from metisfl_async.controller.staging import Room, Staging
from metisfl_async.controller.turns import Turns
from metisfl_async.controller.upload import Upload
from metisfl_async.core import errors
from metisfl_async.core.codecs import RAW
from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import (
    CodecError,
    ConfigError,
    ConnectionLost,
    PeerTimeout,
    Superseded,
    Truncated,
    UnexpectedMessage,
)
from metisfl_async.core.federation.commands import Abandon, Answer, Fold, Receive
from metisfl_async.core.federation.inputs import Admit, Arrived, Damaged, Interrupted, Moved, Rejected
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.floor import Floor
from metisfl_async.core.ids import StreamId, TaskId
from metisfl_async.core.messages import Heartbeat, UpdateReply
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Inspection
from metisfl_async.core.strategies.aggregation.contributors import contributors_of
from metisfl_async.core.strategies.scaling import name_of, weight_of
from metisfl_async.transport.concurrency import Patience, is_being_cancelled

__all__ = ["Arrivals", "GoAhead", "Updates", "header_of"]

GoAhead: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Stream:
    """One call that brings an update, and what the federation has said about it."""

    id: StreamId
    member: Member
    header: Header
    reply: asyncio.Future[UpdateReply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    wanted: Receive | None = None  #: what it is received for, if it is
    is_abandoned: bool = False  #: a newer stream brings the same update
    upload: Upload | None = None  #: once it is whole

    @property
    def is_read(self) -> bool:
        """Whether what comes on it is still wanted."""
        return not self.is_abandoned and not self.reply.done()

    def fold(self, aggregator: Aggregator, standing: str) -> None:
        """Hand the update on."""
        assert self.upload is not None
        aggregator.submit(replace(self.upload, standing=standing) if standing else self.upload)


class Updates:
    """Receives updates into staging, and hands them to the aggregator."""

    def __init__(
        self,
        config: ControllerConfig,
        aggregator: Aggregator,
        codecs: Codecs,
        post: Post,
        staging: Staging,
        *,
        clock: Callable[[], float],
        takes_sums: bool = False,
    ) -> None:
        self._config, self._clock, self._takes_sums = config, clock, takes_sums
        self._aggregator, self._codecs, self._post = aggregator, codecs, post
        self._staging, self._turns = staging, Turns()
        self._streams: dict[StreamId, _Stream | Share] = {}
        self._ids = itertools.count(1)
        self.is_closed = False

    @property
    def waiting(self) -> int:
        """How many updates wait for their turn."""
        return self._turns.waiting

    async def receive(
        self, member: Member, header: Header, frames: AsyncIterator[Frame], go_ahead: GoAhead
    ) -> UpdateReply:
        """Take in an update after its header; `go_ahead` is awaited once there is room for the rest."""
        stream = _Stream(StreamId(next(self._ids)), member, header)
        self._streams[stream.id] = stream
        try:
            content = content_of(header)
            self._post(Admit(stream.id, member.id, TaskId(header.task_id), header.model_version, content))
            if stream.wanted is not None:
                await self._take_in(stream, stream.wanted, frames, go_ahead)
            return await self._reply_to(stream)
        finally:
            del self._streams[stream.id]

    @contextmanager
    def shares(self, count: int) -> Iterator[list[Share]]:
        """Open a stream for each share of a sum, which comes at once."""
        shares = [Share(StreamId(next(self._ids))) for _ in range(count)]
        self._streams.update((share.id, share) for share in shares)
        try:
            yield shares
        finally:
            for share in shares:
                del self._streams[share.id]

    def act(self, command: Receive | Abandon | Fold | Answer) -> None:
        """Carry out what the federation says about a stream; one that has ended is past caring."""
        if (stream := self._streams.get(command.stream)) is None:
            return
        match command:
            case Receive():
                stream.wanted = command
            case Abandon():
                stream.is_abandoned = True
            case Fold(standing=standing):
                stream.fold(self._aggregator, standing)
            case Answer(reply=reply):
                if not stream.reply.done():  # cancelled while the controller ends
                    stream.reply.set_result(reply)

    def close(self) -> None:
        """Let nobody wait for an answer that will not come."""
        self.is_closed = True
        for stream in self._streams.values():
            stream.reply.cancel()

    async def _take_in(self, stream: _Stream, wanted: Receive, frames: AsyncIterator[Frame], go_ahead: GoAhead) -> None:
        """Read an update and hand it on, or say why not; nothing is read of one that is not wanted any more."""
        try:
            weight = self._check(stream, wanted)
        except (CodecError, ConfigError, UnexpectedMessage) as error:
            self._post(Rejected(stream.id, type(error).__name__, str(error)))
            return
        try:
            room, is_finite = await self._fill(stream, frames, go_ahead)
        except Truncated:
            self._post(Interrupted(stream.id))
            raise
        except CodecError as error:
            self._post(Damaged(stream.id, type(error).__name__, str(error)))
            return
        except MemoryError as error:
            reason = f"there is no memory for an update of {stream.header.manifest.size_bytes} bytes"
            self._post(Rejected(stream.id, type(error).__name__, reason))
            return
        except BaseException:
            self._post(Interrupted(stream.id))
            raise
        if not stream.is_read:
            room.release()
            return
        model = Model(self._codecs.comes_as(stream.header), room.buffer, wanted.model_version)
        stream.upload = Upload(
            stream.id, stream.member.id, wanted.kind, stream.header, model, weight, room, is_finite, stream.reply
        )
        self._post(Arrived(stream.id))

    async def _reply_to(self, stream: _Stream) -> UpdateReply:
        """Wait for what became of an update.

        Raises
        ------
        ConnectionLost
            If the controller ends before that is known.
        """
        if not self.is_closed:
            try:
                return await asyncio.shield(stream.reply)
            except asyncio.CancelledError:
                if not stream.reply.cancelled() or is_being_cancelled():
                    raise
        raise ConnectionLost("controller", "it ends, and the update was not folded")

    def _check(self, stream: _Stream, wanted: Receive) -> float:
        """Look at everything that the header tells, before the model is let in; the scaling factor of the update."""
        header = stream.header
        check_size(header, self._config.max_model_bytes)
        if wanted.kind is TaskKind.GET_WEIGHTS:
            if not header.manifest.tensors:
                raise UnexpectedMessage("get_weights() gave no arrays")
            if header.kind == "sum":
                raise UnexpectedMessage("first weights came as a sum; allowed: kind 'update'")
            if header.codec != RAW:
                raise UnexpectedMessage(f"first weights have codec {header.codec!r}; allowed: {RAW!r}")
            return 1.0
        publication = self._aggregator.publication
        assert publication is not None
        if (difference := publication.model.manifest.difference(header.manifest)) is not None:
            raise UnexpectedMessage(f"the update does not fit the global model: {difference}")
        config, learner = self._config, stream.member.id
        if header.kind == "sum":
            return self._check_sum(header)
        if header.codec not in (RAW, config.update_codec):
            allowed = " or ".join(map(repr, dict.fromkeys((RAW, config.update_codec))))
            raise UnexpectedMessage(f"the update has codec {header.codec!r}; allowed: {allowed}")
        return weight_of(config.scaling_factor, learner, header.metadata, header.metrics, config.max_weight)

    def _check_sum(self, header: Header) -> float:
        """Look at what the header of a sum tells; its scaling factor is that of all who contributed."""
        config = self._config
        if not config.max_relayed_learners:
            raise UnexpectedMessage("a sum of updates came; allowed only from relays, with max_relayed_learners > 0")
        if not self._takes_sums:
            rule, scheduler = (_called(each) for each in (config.aggregation_rule, config.scheduler))
            raise UnexpectedMessage(
                f"a sum of updates came to rule {rule} under scheduler {scheduler}, where each update is needed; "
                "allowed: a weighted mean in rounds, such as FedAvg, of which no update is kept"
            )
        if header.codec != (codec := self._codecs.sum_form.codec):
            allowed = f"{codec!r}, of a relay whose rule has reproducible={codec != RAW}"
            raise UnexpectedMessage(f"the sum has codec {header.codec!r}; allowed: {allowed}")
        factor, most = name_of(config.scaling_factor), config.max_relayed_learners
        contributors = contributors_of(header.metadata, factor, config.max_weight, most)
        return sum(each.weight for each in contributors.values())

    async def _fill(self, stream: _Stream, frames: AsyncIterator[Frame], go_ahead: GoAhead) -> tuple[Room, bool]:
        """Read an update into staging, for as long as it is wanted, and look whether its values are finite.

        Nothing counts before its end frame is good.
        """
        header, member = stream.header, stream.member
        manifest, room = self._codecs.comes_as(header), None
        try:
            async with self._turns.turn(manifest.size_bytes) as turn:
                room = await self._staging.reserve(manifest.size_bytes)
                assembly = Assembly(header, room.buffer, manifest)
                inspection = Inspection(Model(manifest, room.buffer))
                if stream.is_read:
                    await go_ahead()
                arrivals = Arrivals(frames, member.id, self._config, self._clock)
                while stream.is_read and not assembly.is_complete:
                    frame = await arrivals.next()
                    if frame is None:
                        raise assembly.truncated()
                    if stream.is_abandoned:
                        break
                    before = assembly.received_bytes
                    assembly.add(frame)
                    inspection.advance(assembly.received_bytes)
                    turn.moved()
                    self._post(Moved(member.id, received=assembly.received_bytes - before))
                    self._heard(member)
            if stream.is_abandoned:
                raise Superseded(member.id)
        except BaseException as error:
            if room is not None:
                room.release()
            if isinstance(error, CodecError) and stream.is_abandoned:
                raise Superseded(member.id) from error  # what an older stream brings says nothing about the update
            raise
        return room, inspection.is_finite

    def _heard(self, member: Member) -> None:
        """Renew the lease, and say so now and then: the heartbeats that we would answer may wait behind the update."""
        now = self._clock()
        member.heard(now)
        if member.connection is not None and now - member.assured_at >= self._config.heartbeat_secs:
            member.assured_at = now
            member.connection.send(Heartbeat())


async def header_of(frames: AsyncIterator[Frame], kinds: Sequence[str], sender: str, idle_secs: float) -> Header:
    """Read the header of a model of one of these kinds."""
    header = await _next_frame(frames, sender, idle_secs)
    if header is None:
        raise Truncated("stream", "ended before the header")
    if not isinstance(header, Header) or header.kind not in kinds:
        allowed = " or ".join(map(repr, kinds))
        raise errors.Damaged("stream", f"the first frame is not the header of a model of kind {allowed}")
    return header


class Arrivals:
    """The frames of a model after its header, as long as they come fast enough."""

    def __init__(
        self, frames: AsyncIterator[Frame], sender: str, config: ControllerConfig, clock: Callable[[], float]
    ) -> None:
        self._frames, self._sender, self._clock = frames, sender, clock
        self._idle_secs, self._least = config.upload_idle_secs, config.min_upload_bytes_per_sec
        self._floor = Floor(self._least, self._idle_secs)

    async def next(self) -> Frame | None:
        """Wait for the next frame; None once there are no more.

        Raises
        ------
        PeerTimeout
            If nothing came for `upload_idle_secs`, or on average less than `min_upload_bytes_per_sec`.
        """
        begun_at = self._clock()
        frame = await _next_frame(self._frames, self._sender, self._idle_secs)
        size = len(frame.payload) if isinstance(frame, Data) else 0
        if frame is not None and not self._floor.came(size, self._clock() - begun_at):
            what = f"less of the model came than min_upload_bytes_per_sec={self._least:g}"
            raise PeerTimeout(self._sender, f"{what}, over upload_idle_secs={self._idle_secs:g}")
        return frame


async def _next_frame(frames: AsyncIterator[Frame], sender: str, idle_secs: float) -> Frame | None:
    """Wait for the next frame, but no longer than `upload_idle_secs`; None once there are no more."""
    try:
        async with Patience(idle_secs):
            return await anext(frames, None)
    except TimeoutError:
        raise PeerTimeout(sender, f"nothing of the model came for upload_idle_secs={idle_secs:g}") from None


def _called(choice: object) -> str:
    """Say what a strategy is called, which is given by name or as an object."""
    return choice if isinstance(choice, str) else type(choice).__name__
