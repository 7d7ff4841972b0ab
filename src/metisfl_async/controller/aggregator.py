"""Checks and folds updates, publishes global models: one job after another, long arithmetic in a worker thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeAlias

from metisfl_async.codec.frame import Header, Publication
from metisfl_async.controller.staging import Room
from metisfl_async.controller.threads import Threads
from metisfl_async.core.errors import ConfigError, ConnectionLost
from metisfl_async.core.federation.commands import Aggregate, Command, Discard, Forget
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.model import Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update
from metisfl_async.store.base import GLOBAL, ModelStore
from metisfl_async.transport.concurrency import is_being_cancelled

__all__ = ["Aggregator", "Upload"]

FOLD_INLINE_BYTES = 2**20  #: there is a fold for each update; waking a thread takes longer than folding so much

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Upload:
    """A whole, undamaged update in its staging room; the aggregator gives the room back."""

    task: Task
    header: Header
    model: Model
    weight: float
    room: Room
    is_finite: bool
    reply: asyncio.Future[UpdateReply]


Job: TypeAlias = Upload | Aggregate | Forget | Discard


class Post(Protocol):
    """Lets the federation decide and carries out what it says: `Dispatcher.post`."""

    def __call__(self, decide: Callable[P, list[Command]], *args: P.args, **kwargs: P.kwargs) -> None: ...


class Aggregator:
    """Owns the aggregation rule and the current global model.

    `keeps_updates` says whether each learner's updates go into the store as well.
    """

    def __init__(
        self, federation: Federation, rule: AggregationRule, store: ModelStore, post: Post, *, keeps_updates: bool
    ) -> None:
        self.publication: Publication | None = None
        self._federation, self._rule, self._store, self._post = federation, rule, store, post
        self._keeps_updates = keeps_updates
        # Not bounded by itself: each update in it holds staging room, and one model is made at a time. What the
        # federation asks for goes before the updates that wait: it was decided without them.
        self._jobs: asyncio.PriorityQueue[tuple[int, int, Job]] = asyncio.PriorityQueue()
        self._submitted, self._has_ended = 0, False
        # How many jobs had been submitted when a learner's latest update was folded. It took the place of what an older
        # Forget means; if its learner has not come back, another Forget follows.
        self._folded_at: dict[LearnerId, int] = {}
        self._replies: dict[str, asyncio.Future[UpdateReply]] = {}
        self.threads = Threads()

    async def run(self) -> None:
        """Do the jobs in order, until cancelled; a job under way in the thread is waited for."""
        try:
            while True:
                _, submitted, job = await self._jobs.get()
                match job:
                    case Upload():
                        await self._take_in(job)
                    case Aggregate(version, others):
                        await self._aggregate(version, others)
                    case Forget(learner):
                        if submitted > self._folded_at.get(learner, 0):
                            await self._forget(learner)
                    case Discard():
                        if self.publication is not None:
                            self._rule.discard()
        finally:
            self._has_ended = True
            for reply in self._replies.values():
                reply.cancel()
            self.threads.close()

    def submit(self, job: Job) -> None:
        is_upload = isinstance(job, Upload)
        if isinstance(job, Upload):
            if self._has_ended:
                job.room.release()
                return
            self._replies[job.task.id] = job.reply
        self._submitted += 1
        self._jobs.put_nowait((int(is_upload), self._submitted, job))

    async def reply_to(self, task: Task) -> UpdateReply:
        """Wait for what became of an update that was submitted.

        Raises
        ------
        ConnectionLost
            If the controller ends before that is known.
        """
        if (reply := self._replies.get(task.id)) is not None:
            try:
                return await asyncio.shield(reply)
            except asyncio.CancelledError:
                if not reply.cancelled() or is_being_cancelled():
                    raise
        raise ConnectionLost("controller", "it ends, and the update was not folded")

    async def set_first_model(self, model: Model) -> None:
        """Publish version 0."""
        await self.threads.work(model.manifest.size_bytes, self._rule.start, model.freeze())
        publication = Publication(model)
        await self._store.insert(GLOBAL, model)
        self.publication = publication

    async def _take_in(self, upload: Upload) -> None:
        task, header = upload.task, upload.header
        try:
            if task.state is not TaskState.STORED:
                upload.reply.set_result(_answer(task))
                return
            size = upload.model.manifest.size_bytes
            if not upload.is_finite and (problem := await self.threads.work(size, unfit, upload.model)) is not None:
                self._post(self._federation.rejected, task, "NotFinite", problem)
                upload.reply.set_result(UpdateReply(False, problem))
                return
            if task.kind is TaskKind.GET_WEIGHTS:
                await self.set_first_model(await self.threads.work(size, _copy, upload.model))
            else:
                try:
                    await self._fold(upload)
                except ConfigError as error:  # the rule does not want it
                    self._post(self._federation.rejected, task, type(error).__name__, str(error))
                    upload.reply.set_result(UpdateReply(False, str(error)))
                    return
            held_bytes = upload.room.staging.used_bytes
            post, counted = self._post, self._federation.counted
            post(counted, task, upload.weight, header.metrics, header.metadata, held_bytes=held_bytes)
            upload.reply.set_result(_answer(task))  # the federation may have ended while we folded
        finally:
            upload.room.release()
            upload.reply.cancel()  # unless it has been given: who waits for it is not kept waiting by our end
            del self._replies[task.id]

    async def _fold(self, upload: Upload) -> None:
        """Fold an update, and keep it where updates are kept."""
        assert self.publication is not None
        task, model, weight = upload.task, upload.model, upload.weight
        previous = await self._latest(task.learner) if self._rule.needs_previous else None
        staleness = self.publication.model.version - task.model_version
        update = Update(task.learner, model, weight, staleness, previous)
        if model.manifest.size_bytes < FOLD_INLINE_BYTES:
            self._rule.fold(update)
        else:
            await self.threads.work(model.manifest.size_bytes, self._rule.fold, update)
        if self._keeps_updates:
            await self._store.insert(task.learner, model, weight)
            self._folded_at[task.learner] = self._submitted

    async def _aggregate(self, version: int, others: tuple[LearnerId, ...]) -> None:
        assert self.publication is not None
        manifest, selection_s = self.publication.model.manifest, 0.0
        self.publication.forget_chunks()  # this is when most memory is taken; in rounds, all have them by now
        for learner in others:
            begun_at = time.monotonic()
            update = await self._latest(learner)
            selection_s += time.monotonic() - begun_at
            if update is not None:
                with suppress(ConfigError):  # the rule does not want it; its learner was told nothing else
                    await self.threads.work(manifest.size_bytes, self._rule.fold, update)
        model = await self.threads.work(manifest.size_bytes, self._rule.aggregate, version)
        if (difference := manifest.difference(model.manifest)) is not None or model.version != version:
            wrong = difference or f"version {model.version} instead of {version}"
            raise RuntimeError(f"{type(self._rule).__name__}.aggregate() made no such model as was asked for: {wrong}")
        publication = Publication(model)  # read-only from here on, so that the store can share it
        await self._store.insert(GLOBAL, model)
        if self._federation.is_finished:
            return  # stopped meanwhile; the model before stays the final one
        self.publication = publication
        self._post(self._federation.published, version, selection_s * 1e3)

    async def _forget(self, learner: LearnerId) -> None:
        if not self._keeps_updates:
            return
        if self._rule.needs_previous and (update := await self._latest(learner)) is not None:
            await self.threads.work(update.model.manifest.size_bytes, self._rule.remove, update)
        await self._store.erase(learner)
        self._folded_at.pop(learner, None)

    async def _latest(self, learner: LearnerId) -> Update | None:
        stored = await self._store.latest(learner)
        if stored is None or self.publication is None:
            return None
        staleness = max(self.publication.model.version - stored.model.version, 0)  # 0 for those of an earlier run
        return Update(learner, stored.model, stored.weight, staleness)


def _answer(task: Task) -> UpdateReply:
    if task.state is TaskState.COUNTED:
        return UpdateReply(True)
    return UpdateReply(False, f"the task is {task.state}: {task.reason}")


def _copy(update: Model) -> Model:
    """Take first weights out of their staging room."""
    model = Model(update.manifest, allocate(len(update.buffer)), version=0)
    model.buffer[:] = update.buffer
    return model
