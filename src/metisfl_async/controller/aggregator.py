"""Checks and folds updates, publishes global models: one job after another, long arithmetic in a worker thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Protocol, TypeAlias

from metisfl_async.codec.coded import effort
from metisfl_async.codec.publication import Publication
from metisfl_async.controller.codecs import Codecs
from metisfl_async.controller.keeper import Keeper
from metisfl_async.controller.threads import INLINE_BYTES, Threads
from metisfl_async.controller.upload import SumUpload, Upload, folded
from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import (
    CodecError,
    ConfigError,
    Damaged,
    ModelLost,
    NoModel,
    StoreError,
    UnexpectedMessage,
)
from metisfl_async.core.federation.commands import Aggregate, Discard, Forget, Save
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.inputs import Folded, Input, Published, Rejected, Stop, Unpublished
from metisfl_async.core.federation.inputs import Saved as SavedInput
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.infinities import Infinities
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum
from metisfl_async.core.strategies.aggregation.resemblance import Gallery, Portrait
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update, made
from metisfl_async.core.strategies.durable import check_kept
from metisfl_async.store.base import BEST, GLOBAL, NO_ARRAYS, Saved
from metisfl_async.transport.concurrency import call

logger = logging.getLogger(__name__)

__all__ = ["Aggregator", "Post"]


AggregatorJob: TypeAlias = Upload | SumUpload | Aggregate | Save | Forget | Discard


class Post(Protocol):
    """Tells the federation what has happened, and carries out what it says: `Dispatcher.post`."""

    def __call__(self, happened: Input) -> None: ...


class Aggregator:
    """Owns the aggregation rule and the current global model.

    `keeps_updates` says whether each learner's updates go into the store as well. What is infinite in the first model
    stays so, and the rule never sees it.
    """

    def __init__(
        self,
        rule: AggregationRule,
        keeper: Keeper,
        post: Post,
        threads: Threads,
        codecs: Codecs,
        *,
        keeps_updates: bool,
    ) -> None:
        self.publication: Publication | None = None
        self.best: Publication | None = None  #: of the models so far, if one is kept
        self._rule, self._keeper, self._post, self._threads = rule, keeper, post, threads
        self._codecs, self._keeps_updates = codecs, keeps_updates
        # Not bounded by itself: each update in it holds staging room, and one model is made at a time. What the
        # federation asks for goes before the updates that wait: it was decided without them.
        self._jobs: asyncio.PriorityQueue[tuple[int, int, AggregatorJob]] = asyncio.PriorityQueue()
        self._submitted, self._has_ended = 0, False
        # How many jobs had been submitted when a learner's latest update was folded. A Forget that is older than it
        # means an update that is gone; if the learner has not come back, the federation sends another Forget.
        self._folded_at: dict[LearnerId, int] = {}
        self._inside: dict[LearnerId, str] = {}  # of each learner whose update is kept: the task that it answers
        self._infinities: Infinities | None = None
        self._base: Model | None = None  # the latest global model as the rule knows it
        self._unsaved: Model | None = None  # the latest global model, if the store does not have it
        self._unsaved_best: Model | None = None  # likewise the best one
        self._gallery = Gallery()  # of the updates since the latest global model
        self._latest_task = ""  # that the update that was read last answers

    async def run(self) -> None:
        """Do the jobs in order, until cancelled; a job under way in the thread is waited for."""
        try:
            while True:
                _, submitted, job = await self._jobs.get()
                try:
                    await self._do(job, submitted)
                except StoreError as error:  # it was tried again for as long as was allowed
                    self._keeper.hurry()
                    self._post(Stop(str(error), Ending.STORE_FAILED))
                except MemoryError:  # what is half done is not used again
                    reason = f"there was no memory for it: {type(job).__name__.lower()} failed"
                    self._post(Stop(reason, Ending.NO_MEMORY))
        finally:
            self._has_ended = True

    async def _do(self, job: AggregatorJob, submitted: int) -> None:
        match job:
            case Upload():
                await self._take_in(job)
            case SumUpload():
                await self._take_in_sum(job)
            case Aggregate(version, others, standing):
                await self._aggregate(version, others, standing)
            case Save(number, standing, is_finished):
                await self._save(number, standing, is_finished)
            case Forget(learner):
                if submitted > self._folded_at.get(learner, 0):
                    await self._forget(learner)
            case Discard():
                if self.publication is not None:
                    self._rule.discard()
                    self._gallery.clear()

    def submit(self, job: AggregatorJob) -> None:
        is_upload = isinstance(job, Upload | SumUpload)
        if isinstance(job, Upload) and self._has_ended:
            job.room.release()
            return
        self._submitted += 1
        self._jobs.put_nowait((int(is_upload), self._submitted, job))

    def keep_best(self) -> None:
        """Keep the latest global model as the best one; the next commit saves it."""
        assert self.publication is not None
        self.best, self._unsaved_best = self.publication, self.publication.model

    async def set_first_model(self, model: Model, standing: str) -> None:
        """Publish version 0."""
        await self._take_up(self._rule.start, model.freeze())
        publication = await self._made_ready(model)
        await self._keeper.commit(standing, model=model)
        self.publication = publication

    async def restore(self, saved: Saved, learners: Iterable[LearnerId]) -> None:
        """Take up the model and the rule's state of before; and these learners' updates, if the rule needs them."""
        if saved.version is None:
            return
        keeper, store = self._keeper, self._keeper.store
        models = [kept.model for kept in await keeper.do(store.lineage, GLOBAL)][-self._rule.num_models :]
        if not models or models[-1].version != saved.version:
            raise ModelLost("the model store", f"global model {saved.version}, which was committed, is not there")
        infinities = Infinities.of(models[-1])
        earlier = models[:-1] if infinities is None else [infinities.without(model) for model in models[:-1]]
        await self._take_up(lambda latest: self._rule.restore([*earlier, latest], saved.arrays), models[-1])
        self.publication = await self._made_ready(models[-1])
        try:
            best = await keeper.do(store.latest, BEST)
            self.best = None if best is None else Publication(best.model)
        except ModelLost as lost:
            logger.warning("the best model is gone, and is chosen anew from now on: %s", lost)
        if self._rule.needs_previous:
            await self._remember(learners)

    async def _take_up(self, begin: Callable[[Model], None], model: Model) -> None:
        """Have the rule begin with a model; what of it is infinite is kept from the rule."""

        def take_up() -> None:
            self._codecs.take_up(model.manifest)
            self._infinities = Infinities.of(model)
            self._base = model if self._infinities is None else self._infinities.without(model)
            begin(self._base)

        await self._threads.work(model.manifest.size_bytes, take_up)

    async def _made_ready(self, model: Model) -> Publication:
        return await self._threads.work(effort(model.manifest), self._codecs.publication, model)

    async def _remember(self, learners: Iterable[LearnerId]) -> None:
        """Fold the latest update of each learner; one that is damaged or gone is left out, and named."""
        assert self.publication is not None
        self._inside.clear()
        for learner in learners:
            update = await self._latest(learner)
            if update is None:
                logger.warning(
                    "the latest update of %s is gone from the model store; the sum goes on without it", learner
                )
                continue
            await self._threads.work(update.model.manifest.size_bytes, self._rule.fold, update)
            self._inside[learner] = self._latest_task

    async def _save(self, number: int, standing: str, is_finished: bool) -> None:
        try:
            await self._commit(standing)  # also at the end: it can be resumed until its driver has the result
        except StoreError as error:
            if not is_finished:
                raise
            logger.error("the end of the federation could not be saved, it will look unfinished: %s", error)
        self._post(SavedInput(number))

    async def _take_in(self, upload: Upload) -> None:
        header, size = upload.header, upload.header.manifest.size_bytes
        try:
            if upload.reply.done():
                return  # the federation has ended
            if header.kind != "sum" and header.codec != RAW:
                assert self.publication is not None
                base = self.publication.model
                model = await self._threads.work(effort(base.manifest), self._codecs.whole, upload.model, base)
                upload = replace(upload, model=model, is_finite=False)  # that is seen once it is whole
            is_first = upload.kind is TaskKind.GET_WEIGHTS
            look = partial(upload.unfit, None if is_first else self._infinities)
            if (problem := await self._threads.work(0 if upload.is_finite else size, look)) is not None:
                self._post(Rejected(upload.stream, "NotFinite", problem))
                return
            if is_first:
                await self.set_first_model(await self._threads.work(size, upload.first_weights), upload.standing)
                seen: Portrait | None = None
            else:
                try:
                    seen = await self._fold(upload)
                except ConfigError as error:  # the rule does not want it
                    self._post(Rejected(upload.stream, type(error).__name__, str(error)))
                    return
        except (CodecError, UnexpectedMessage) as error:  # it cannot be made whole
            self._post(Rejected(upload.stream, type(error).__name__, str(error)))
        except MemoryError as error:
            reason = f"there is no memory to take in a model of {size} bytes"
            self._post(Rejected(upload.stream, type(error).__name__, reason))
        else:
            folded = Folded(upload.stream, upload.weight, header.metrics, header.metadata)
            folded = replace(folded, held_bytes=upload.room.staging.used_bytes, num_relayed=upload.num_relayed)
            if seen is not None:
                twin = self._gallery.add(TaskId(header.task_id), upload.learner, upload.weight, seen)
                folded = replace(folded, norm=seen.norm, is_global=seen.is_global, twin=twin)
            self._post(folded)
        finally:
            upload.room.release()

    async def _take_in_sum(self, upload: SumUpload) -> None:
        """Fold a sum: what became of it is said of each contribution."""
        if not upload.is_wanted():
            return
        partial = upload.partial
        try:
            await self._threads.work(partial.size_bytes, self._fold_sum, partial)
        except (CodecError, ConfigError, MemoryError) as error:
            reason = str(error) or f"there is no memory to take in a sum of {partial.size_bytes} bytes"
            for stream in upload.streams:
                self._post(Rejected(stream, type(error).__name__, reason))
            return
        for stream, share in zip(upload.streams, partial.contributions, strict=True):
            seen = share.seen
            twin = self._gallery.add(share.task_id, share.learner, share.weight, seen)
            norm, held_bytes = seen.norm, partial.size_bytes
            self._post(
                Folded(stream, share.weight, share.metrics, share.metadata, held_bytes, norm, seen.is_global, twin)
            )

    def _fold_sum(self, partial: PartialSum) -> None:
        if (problem := partial.unfit()) is not None:
            raise Damaged("sum", problem)
        self._rule.fold_sum(partial)

    async def _fold(self, upload: Upload) -> Portrait:
        """Fold an update, look what it is like, and keep it where updates are kept."""
        assert self.publication is not None
        assert self._base is not None
        if upload.header.kind == "sum":
            return await self._threads.work(upload.model.manifest.size_bytes, upload.fold_sum, self._rule, self._base)
        learner, model, weight = upload.learner, upload.model, upload.weight
        previous = await self._previous(learner) if self._rule.needs_previous else None
        staleness = self.publication.model.version - model.version
        update = Update(learner, model, weight, staleness, previous)
        base, size = self._base, model.manifest.size_bytes
        if size < self._rule.sum_form.fast_bytes:
            seen = call(folded, self._rule, update, base)
        else:
            seen = await self._threads.work(size, folded, self._rule, update, base)
        if self._keeps_updates:
            task_id = upload.header.task_id
            if self._infinities is not None:
                self._infinities.restore(model)
            try:
                await self._keeper.do(self._keeper.store.insert, learner, model, weight, task_id)
            except MemoryError:  # it is in the sum already
                raise StoreError("the model store", f"there is no memory to keep the update of {learner}") from None
            self._folded_at[learner], self._inside[learner] = self._submitted, task_id
        return seen

    async def _aggregate(self, version: int, others: tuple[LearnerId, ...], standing: str) -> None:
        assert self.publication is not None
        manifest, selection_s = self.publication.model.manifest, 0.0
        self.publication.forget_chunks()  # this is when most memory is taken; in rounds, all have them by now
        for learner in others:
            begun_at = perf_counter()
            update = await self._latest(learner)
            selection_s += perf_counter() - begun_at
            if update is not None:
                with suppress(ConfigError):  # the rule does not want it; its learner was told nothing else
                    await self._threads.work(manifest.size_bytes, self._rule.fold, update)
        try:
            model = await self._made(version, manifest.size_bytes)
        except MemoryError:
            if others or not self._rule.aggregates_again:
                raise
            reason = f"there is no memory for a model of {manifest.size_bytes} bytes"
            self._post(Unpublished(reason, keeps_updates=True, may_pass=True))
            return
        except NoModel as error:
            await self._take_back(error)
            return
        if (difference := manifest.difference(model.manifest)) is not None or model.version != version:
            wrong = difference or f"version {model.version} instead of {version}"
            raise RuntimeError(f"{type(self._rule).__name__}.aggregate() made no such model as was asked for: {wrong}")
        cosines = await self._threads.work(self._gallery.size_bytes, self._gallery.cosines)
        self._base = model
        if self._infinities is not None:
            model = await self._threads.work(manifest.size_bytes, self._infinities.within, model)
        publication = await self._made_ready(model)  # read-only from here on, so that the store can share it
        self._unsaved = model
        if standing or not self._keeper.store.is_durable:
            await self._commit(standing)
        self.publication = publication
        self._post(Published(version, selection_s * 1e3, self._rule.notes(), cosines, self._rule.privacy()))
        self._gallery.clear()

    async def _made(self, version: int, size_bytes: int) -> Model:
        """Make the next global model of what is folded."""
        size = max(size_bytes, INLINE_BYTES) if self._rule.is_heavy else size_bytes
        return await self._threads.work(size, made, self._rule, version)

    async def _take_back(self, error: NoModel) -> None:
        """Go on from the latest global model, without the updates of the one that cannot be published."""
        assert self._base is not None
        reason = str(error)
        if not error.keeps_updates:
            latest, reason = self._base, reason + self._gallery.suspects()
            self._gallery.clear()
            await self._threads.work(latest.manifest.size_bytes, self._rule.take_back, latest)
            self._inside.clear()
        self._post(Unpublished(reason, error.keeps_updates))

    async def _commit(self, standing: str) -> None:
        """Save how the federation stands; the latest model with what the rule keeps, and the best one, if not yet."""
        model, is_durable = self._unsaved, self._keeper.store.is_durable
        best = self._unsaved_best if is_durable else None  # nothing else could come back to one in memory
        arrays = self._rule.state() if model is not None and is_durable else NO_ARRAYS
        check_kept("aggregation rule", self._rule, arrays)
        await self._keeper.commit(standing, model=model, arrays=arrays, best=best)
        self._unsaved = None
        if self._unsaved_best is best:
            self._unsaved_best = None

    async def _forget(self, learner: LearnerId) -> None:
        if not self._keeps_updates:
            return
        if self._rule.needs_previous and (update := await self._previous(learner)) is not None:
            await self._threads.work(update.model.manifest.size_bytes, self._rule.remove, update)
        await self._keeper.do(self._keeper.store.erase, learner)
        self._folded_at.pop(learner, None)
        self._inside.pop(learner, None)

    async def _previous(self, learner: LearnerId) -> Update | None:
        """Get the update of a learner that the rule remembers; if it is gone, make the sum anew without it."""
        if learner not in self._inside:
            return None
        update = await self._latest(learner)
        if update is not None and self._latest_task == self._inside[learner]:
            return update
        logger.warning(
            "the update of %s that is in the sum is gone from the model store; the sum is made anew", learner
        )
        assert self._base is not None
        others = [other for other in self._inside if other != learner]
        self._rule.start(self._base)
        await self._remember(others)
        return None

    async def _latest(self, learner: LearnerId) -> Update | None:
        """Get the latest update of a learner that is kept; None if there is none, or only a damaged one."""
        self._latest_task = ""
        while True:
            try:
                stored = await self._keeper.do(self._keeper.store.latest, learner)
                break
            except ModelLost:  # it is put aside, and named in the log; the one before it is the latest now
                pass
        if stored is None or self.publication is None:
            return None
        self._latest_task = stored.task_id
        staleness = max(self.publication.model.version - stored.model.version, 0)
        model = stored.model if self._infinities is None else self._infinities.without(stored.model)
        return Update(learner, model, stored.weight, staleness)
