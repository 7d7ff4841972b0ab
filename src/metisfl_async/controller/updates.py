"""Receives updates as far as there is room, as long as they are wanted; each learner is told what became of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from metisfl_async.codec.frame import Assembly, Frame, Header, check_size
from metisfl_async.controller.aggregator import Upload
from metisfl_async.controller.dispatcher import Dispatcher
from metisfl_async.controller.registry import Member, Registry
from metisfl_async.controller.staging import Room, Staging
from metisfl_async.controller.turns import Turns
from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import (
    CodecError,
    ConfigError,
    Damaged,
    PeerTimeout,
    Superseded,
    Truncated,
    UnexpectedMessage,
)
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import TaskId, Token
from metisfl_async.core.messages import Heartbeat, UpdateReply
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Inspection
from metisfl_async.core.strategies.scaling import weight_of

__all__ = ["GoAhead", "Updates", "header_of", "next_frame"]

GoAhead: TypeAlias = Callable[[], Awaitable[None]]


class Updates:
    """Receives updates into staging, and hands them to the aggregator."""

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
        self._config, self._federation, self._registry = config, federation, registry
        self._aggregator, self._post, self._clock = dispatcher.aggregator, dispatcher.post, clock
        self._staging, self._turns = staging, Turns()
        self._streams: dict[TaskId, object] = {}  # which stream of a task's update is the latest

    async def receive(self, frames: AsyncIterator[Frame], go_ahead: GoAhead) -> UpdateReply:
        """Take in an update; `go_ahead` is awaited after its header, once there is room for the rest."""
        header = await header_of(frames, "update", self._config.upload_idle_secs)
        member = self._registry.heard(Token(header.token))
        task = self._federation.admit(member.id, TaskId(header.task_id), header.model_version)
        if isinstance(task, UpdateReply):
            return task
        if task.state is TaskState.STORED:  # sent again because the answer was lost
            return await self._aggregator.reply_to(task)
        try:
            weight = self._check(task, header)
            room, is_finite = await self._fill(task, header, member, frames, go_ahead)
        except Truncated:
            self._post(self._federation.interrupted, task)
            raise
        except (CodecError, ConfigError, UnexpectedMessage) as error:
            self._post(self._federation.rejected, task, type(error).__name__, str(error))
            return UpdateReply(False, str(error))
        except BaseException:
            self._post(self._federation.interrupted, task)
            raise
        if (refusal := self._federation.arrived(task)) is not None:
            room.release()
            return UpdateReply(False, refusal)
        model = Model(header.manifest, room.buffer, task.model_version)
        reply: asyncio.Future[UpdateReply] = asyncio.get_running_loop().create_future()
        self._aggregator.submit(Upload(task, header, model, weight, room, is_finite, reply))
        return await self._aggregator.reply_to(task)

    def _check(self, task: Task, header: Header) -> float:
        """Look at everything that the header tells, before the model is let in; the scaling factor of the update."""
        check_size(header, self._config.max_model_bytes)
        if task.kind is TaskKind.GET_WEIGHTS:
            if not header.manifest.tensors:
                raise UnexpectedMessage("get_weights() gave no arrays")
            return 1.0
        publication = self._aggregator.publication
        assert publication is not None
        if (difference := publication.model.manifest.difference(header.manifest)) is not None:
            raise UnexpectedMessage(f"the update does not fit the global model: {difference}")
        return weight_of(self._config.scaling_factor, task.learner, header.metadata, header.metrics)

    async def _fill(
        self, task: Task, header: Header, member: Member, frames: AsyncIterator[Frame], go_ahead: GoAhead
    ) -> tuple[Room, bool]:
        """Read an update into staging, for as long as it is wanted, and look whether its values are finite.

        Nothing counts before its end frame is good.
        """
        stream = self._streams[task.id] = object()
        room: Room | None = None
        try:
            async with self._turns.turn(header.manifest.size_bytes) as turn:
                room = await self._staging.reserve(header.manifest.size_bytes)
                assembly = Assembly(header, room.buffer)
                inspection = Inspection(Model(header.manifest, room.buffer))
                if self._streams.get(task.id) is not stream:
                    raise Superseded(member.id)
                if task.state is TaskState.UPLOADING:
                    await go_ahead()
                while task.state is TaskState.UPLOADING and not assembly.is_complete:
                    frame = await next_frame(frames, member.id, self._config.upload_idle_secs)
                    if frame is None:
                        raise assembly.truncated()
                    if self._streams.get(task.id) is not stream:
                        raise Superseded(member.id)
                    before = assembly.received_bytes
                    assembly.add(frame)
                    inspection.advance(assembly.received_bytes)
                    turn.moved()
                    self._federation.moved(member.id, received=assembly.received_bytes - before)
                    self._heard(member)
        except BaseException as error:
            if room is not None:
                room.release()
            if isinstance(error, CodecError) and self._streams.get(task.id) is not stream:
                raise Superseded(member.id) from error  # what an older stream brings says nothing about the update
            raise
        finally:
            if self._streams.get(task.id) is stream:
                del self._streams[task.id]
        return room, inspection.is_finite

    def _heard(self, member: Member) -> None:
        """Renew the lease, and say so now and then: the heartbeats that we would answer may wait behind the update."""
        now = self._clock()
        member.heard(now)
        if member.connection is not None and now - member.assured_at >= self._config.heartbeat_secs:
            member.assured_at = now
            member.connection.send(Heartbeat())


async def header_of(frames: AsyncIterator[Frame], kind: str, idle_secs: float) -> Header:
    """Read the header of a model of this kind; who sends it is not known yet."""
    header = await next_frame(frames, "a caller", idle_secs)
    if header is None:
        raise Truncated("stream", "ended before the header")
    if not isinstance(header, Header) or header.kind != kind:
        raise Damaged("stream", f"the first frame is not the header of a model of kind {kind!r}")
    return header


async def next_frame(frames: AsyncIterator[Frame], sender: str, idle_secs: float) -> Frame | None:
    """Wait for the next frame, but no longer than `upload_idle_secs`; None once there are no more."""
    try:
        async with asyncio.timeout(idle_secs):
            return await anext(frames, None)
    except TimeoutError:
        raise PeerTimeout(sender, f"nothing of the model came for upload_idle_secs={idle_secs:g}") from None
