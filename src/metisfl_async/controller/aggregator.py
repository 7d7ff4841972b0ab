"""Checks updates, folds them, and publishes the means: one job after another, long arithmetic in a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

from metisfl_async.codec.frame import Header, Publication
from metisfl_async.controller.staging import Room
from metisfl_async.core.aggregation.fedavg import FedAvg, unfit
from metisfl_async.core.commands import Aggregate, Command, Discard
from metisfl_async.core.federation import Federation
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.model import Model, allocate
from metisfl_async.core.tasks import Task, TaskKind, TaskState
from metisfl_async.store.base import GLOBAL, ModelStore
from metisfl_async.transport.concurrency import to_the_end

__all__ = ["Aggregator", "Update"]

INLINE_BYTES = 256 * 1024  #: a smaller model is worked on faster than a thread is woken
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Update:
    """A whole, undamaged update in its staging room; the aggregator gives the room back."""

    task: Task
    header: Header
    model: Model
    weight: float
    room: Room
    reply: asyncio.Future[UpdateReply]


Job: TypeAlias = Update | Aggregate | Discard


class Post(Protocol):
    """Lets the federation decide and carries out what it says: `Dispatcher.post`."""

    def __call__(self, decide: Callable[P, list[Command]], *args: P.args, **kwargs: P.kwargs) -> None: ...


class Aggregator:
    """Owns the accumulator and the current global model."""

    def __init__(self, federation: Federation, store: ModelStore, post: Post) -> None:
        self.publication: Publication | None = None
        self._federation, self._store, self._post = federation, store, post
        self._rule: FedAvg | None = None
        # Not bounded by itself: each update in it holds staging room, and there is one mean a round.
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._replies: dict[str, asyncio.Future[UpdateReply]] = {}
        self._worker = ThreadPoolExecutor(1, "metisfl-aggregator")

    async def run(self) -> None:
        """Do the jobs in order, until cancelled; a job under way in the thread is waited for."""
        try:
            while True:
                match await self._jobs.get():
                    case Update() as update:
                        await self._take_in(update)
                    case Aggregate(version):
                        await self._aggregate(version)
                    case Discard():
                        if self._rule is not None:
                            self._rule.discard()
        finally:
            for reply in self._replies.values():
                reply.cancel()
            self._worker.shutdown()

    def submit(self, job: Job) -> None:
        if isinstance(job, Update):
            self._replies[job.task.id] = job.reply
        self._jobs.put_nowait(job)

    async def reply_to(self, task: Task) -> UpdateReply:
        """Wait for what became of an update that was submitted."""
        return await asyncio.shield(self._replies[task.id])

    async def set_first_model(self, model: Model) -> None:
        """Publish version 0."""
        self._rule = FedAvg(model.manifest)
        await self._publish(model)

    async def _take_in(self, update: Update) -> None:
        task = update.task
        try:
            if task.state is not TaskState.STORED:
                update.reply.set_result(_answer(task))
                return
            size = update.model.manifest.size_bytes
            if (problem := await self.work(size, unfit, update.model)) is not None:
                self._post(self._federation.rejected, task, "NotFinite", problem)
                update.reply.set_result(UpdateReply(False, problem))
                return
            if task.kind is TaskKind.GET_WEIGHTS:
                await self.set_first_model(await self.work(size, _copy, update.model))
            else:
                assert self._rule is not None
                await self.work(size, self._rule.fold, update.model, update.weight)
            header = update.header
            self._post(self._federation.counted, task, update.weight, header.metrics, header.metadata)
            update.reply.set_result(_answer(task))  # the federation may have ended while we folded
        finally:
            update.room.release()
            del self._replies[task.id]

    async def _aggregate(self, version: int) -> None:
        rule = self._rule
        assert rule is not None
        model = await self.work(rule.manifest.size_bytes, rule.aggregate, version)
        if self._federation.is_finished:
            return  # stopped meanwhile; the model before stays the final one
        await self._publish(model)
        self._post(self._federation.published, version)

    async def _publish(self, model: Model) -> None:
        self.publication = Publication(model)
        await self._store.insert(GLOBAL, model)

    async def work(self, size_bytes: int, function: Callable[..., T], *args: object) -> T:
        """Do arithmetic over a model of this size without blocking the loop."""
        if size_bytes < INLINE_BYTES:
            return function(*args)

        async def in_worker() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)

        return await to_the_end(in_worker())  # the thread uses what we would give back


def _answer(task: Task) -> UpdateReply:
    if task.state is TaskState.COUNTED:
        return UpdateReply(True)
    return UpdateReply(False, f"the task is {task.state}: {task.reason}")


def _copy(update: Model) -> Model:
    """Take first weights out of their staging room."""
    model = Model(update.manifest, allocate(len(update.buffer)), version=0)
    model.buffer[:] = update.buffer
    return model
