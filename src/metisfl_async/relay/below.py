"""The controller below a relay: its federation has its parent's rounds, and each of its models is its parent's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np

from metisfl_async.codec.publication import Publication
from metisfl_async.controller.controller import Controller, Parts
from metisfl_async.controller.exchange import Exchange, Summed
from metisfl_async.controller.job import Job
from metisfl_async.core.access import LOCAL
from metisfl_async.core.config import ControllerConfig, ModelStoreConfig, ServerParams, TerminationSignals
from metisfl_async.core.errors import QuorumLost, UnexpectedMessage
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.events import FirstWeights, RoundFinished
from metisfl_async.core.federation.inputs import Proceed, Stop
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId, ModelRef, TaskId, new_federation_id, new_token
from metisfl_async.core.messages import Answer, AskRequest, StartRequest, TaskOffer
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model, allocate
from metisfl_async.store.event_log import EventStream
from metisfl_async.transport.concurrency import aside, first_of

__all__ = ["Below"]

T = TypeVar("T")
TIME_BELOW, TIME_TO_JOIN = 0.6, 0.3  #: of the time that there is for answers
ENDLESS = TerminationSignals(federation_rounds=2**62)  #: whoever leads it says when it ends


class Below(Controller):
    """Leads the learners below a relay, one step after another: a round, an evaluation, the end.

    A federation lasts from round to round. Where it cannot go on from the model that it is given, since the relay was
    left out of a round above or one below came to nothing, it ends, and another one begins from that model. With a
    durable store, an open round outlives it, and so does the task above that it is for.
    """

    def __init__(
        self, server_params: ServerParams | None, config: ControllerConfig, store: ModelStoreConfig | None = None
    ) -> None:
        super().__init__(server_params, config, store, resume=store is not None and store.is_durable)
        self._exchange: Exchange | None = Exchange()
        self.key = new_token()  # by which it is known in a tree: two relays may have one name
        self.held: TaskOffer | None = None  #: the task above of a round that was open before a restart
        self._task_id = TaskId("")  # of the latest round
        self._counts = False  # whether the parent says that the sum of that round does
        self._is_training = False  # whether the round is waited for
        self._measured: RoundRecord | None = None  # of the latest model, if it was evaluated

    async def _make_parts(self) -> Parts:
        parts = await super()._make_parts()
        parts.service.conversations.relays = (self.key,)
        self.held, job = None, parts.jobs.current
        if job is not None and job.federation.phase is Phase.TRAINING and (note := job.federation.standing.note):
            self.held = _offer_of(note)
            self._task_id = self.held.task_id
        return parts

    def joined(self, relays: Sequence[str]) -> None:
        """Take note of the relays above; learners that join from now on are told."""
        self._open.service.conversations.relays = (self.key, *relays)

    async def first_weights(self, seed: int) -> Model:
        """Get the weights of one of the learners."""
        await self._end("first weights are asked for")
        job = await self._begin(None, seed)
        await self._while_it_runs(job, _until_begun(job.events.follow()))
        return job.published().model

    async def train(self, model: Model, offer: TaskOffer) -> Summed:
        """Have a round trained from a model, for a task of the parent's.

        Raises
        ------
        QuorumLost
            If it came to nothing, as often as is allowed.
        """
        job, proceed = self._job, Proceed(TaskKind.TRAIN, json.dumps(asdict(offer)))
        if job is not None and await self._takes(model):
            await self._give(model, job, proceed)
        else:
            may_go_on = job is not None and (self.held is not None or job.federation.phase is Phase.GATHERING)
            if job is None or not may_go_on or not await _is_same(job, model):
                await self._end("the model above is another one")
                job = await self._begin(replace(await _copy(model), version=0), offer.seed)
            if job.federation.phase is not Phase.AGGREGATING:  # as it may be where it goes on
                job.post(proceed)
        if offer.task_id != self._task_id:
            self._task_id, self._counts = offer.task_id, False
        self.held, self._is_training = None, True
        try:
            await self._while_it_runs(job, self._swaps.arrived.wait())
        finally:
            self._is_training = False
        assert self._swaps.summed is not None
        return self._swaps.summed

    def settled(self, task_id: TaskId, refusal: str | None) -> None:
        """Take note of what became of a task above; if its sum does not count, the learners hear why at once."""
        if task_id != self._task_id:
            return
        if refusal is None:
            self._counts = True
        elif self._is_training and (job := self._job) is not None:
            self._stop(job, f"above: {refusal}")
        elif self._swaps.summed is not None:
            self._swaps.take_back(f"above: {refusal}")
            self.held = None  # nothing is left of its round

    async def evaluate(self, model: Model) -> RoundRecord:
        """Have a model evaluated that came of a round here, among others; the record of that round."""
        job = self._job
        if job is not None and await self._takes(model):
            events = job.events.from_now()
            await self._give(model, job, Proceed(TaskKind.EVALUATE))
            self._measured = await self._while_it_runs(job, _until_over(events))
        elif job is None or self._measured is None or not await _is_same(job, model):
            raise UnexpectedMessage("no round here has come to a model; only who trained for one can evaluate it")
        return self._measured

    @property
    def weights(self) -> Mapping[str, float]:
        """The last known scaling factors of its learners."""
        job = self._open.jobs.current
        return {} if job is None else job.federation.standing.weights

    def ask(
        self, method: str, params: dict[str, Json], due_at: float
    ) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
        """Ask the learners, with a part of the time that is left: so it can be said above who was late.

        After a restart, some of that time goes by until the first of them is back.
        """
        left_s = max(0.0, due_at - asyncio.get_running_loop().time())
        answers_s, join_s = TIME_BELOW * left_s, TIME_TO_JOIN * left_s
        return self._open.service.questions.ask(AskRequest(method, params, answers_s, 1, join_s))

    async def end(self, final: Model | None, *, keep_running: bool) -> None:
        """End the federation with a final model, and tell the learners."""
        service, current = self._open.service, self._open.jobs.current
        job = self._job
        if job is not None and final is not None and await self._takes(final):
            events = job.events.from_now()
            await self._give(final, job)
            await self._while_it_runs(job, _until_over(events))
        await self._end("the federation above is over")
        if current is not None and final is not None and not await _is_same(current, final):
            version = 0 if current.aggregator.publication is None else current.published().model.version + 1
            copy = await _copy(final)
            current.aggregator.publication = Publication(Model(copy.manifest, copy.buffer, version))
        await service.end(LOCAL, self._open.jobs.id, keep_running)

    # --- pieces ----------------------------------------------------------------------------------------------------

    @property
    def _swaps(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    @property
    def _job(self) -> Job | None:
        """The federation that runs, if one does."""
        job = self._open.jobs.current
        return None if job is None or job.is_over else job

    async def _takes(self, model: Model) -> bool:
        """Whether a sum that counts waits for such a model; one that was lost is waited for, and made again."""
        if (job := self._job) is None or not self._counts:
            return False
        if self._swaps.summed is None:
            await first_of(self._swaps.arrived.wait(), _until_closed(job.events.from_now()))
        summed = self._swaps.summed
        return summed is not None and summed.of == model.manifest

    async def _give(self, model: Model, job: Job, *then: Proceed) -> None:
        """Publish the model for the sum that waits, and say what follows."""
        model = await _copy(model)
        self._measured, self._counts, self.held = None, False, None
        for each in then:
            job.post(each)
        self._swaps.give(model)

    async def _begin(self, first: Model | None, seed: int) -> Job:
        jobs, federation_id = self._open.jobs, new_federation_id()
        if first is not None:
            jobs.give(federation_id, first)
        self._swaps.open()
        self._measured, self._counts = None, False
        await jobs.start(StartRequest(ENDLESS, 1, seed, None, federation_id, has_model=first is not None))
        assert jobs.current is not None
        return jobs.current

    async def _end(self, reason: str) -> None:
        if (job := self._job) is not None:
            self._stop(job, reason)
            await job.over.wait()

    def _stop(self, job: Job, reason: str) -> None:
        job.post(Stop(reason))
        self._swaps.refuse(reason)

    async def _while_it_runs(self, job: Job, steps: Coroutine[Any, Any, T]) -> T:
        """Wait for something; if the federation ends before, say why.

        Raises
        ------
        QuorumLost
            If it ended.
        """
        result: list[T] = []

        async def step() -> None:
            result.append(await steps)

        await first_of(step(), job.over.wait())
        if not result:
            raise QuorumLost(f"below: {job.federation.standing.reason}")
        return result[0]


async def _until_begun(events: EventStream) -> None:
    async for event in events:
        if isinstance(event, FirstWeights):
            return


async def _until_over(events: EventStream) -> RoundRecord:
    """Wait for the record of the round that is open."""
    async for event in events:
        if isinstance(event, RoundFinished):
            return event.record
    raise AssertionError  # whoever waits hears before that the federation is over


async def _until_closed(events: EventStream) -> None:
    """Wait until the round that is open is over, or the federation is."""
    async for event in events:
        if isinstance(event, RoundFinished):
            return


def _offer_of(note: str) -> TaskOffer:
    """Read the task that a round is for."""
    facts = json.loads(note)
    return TaskOffer(**facts | {"kind": TaskKind(facts["kind"]), "model": ModelRef(*facts["model"])})


async def _copy(model: Model) -> Model:
    """Copy a model whose memory is used again for the next one."""

    def copied() -> Model:
        buffer = allocate(len(model.buffer))
        buffer[:] = model.buffer
        return replace(model, buffer=buffer)

    return await aside(len(model.buffer), copied)


async def _is_same(job: Job, model: Model) -> bool:
    """Whether it is the latest global model of a federation, whatever its version there."""
    publication = job.aggregator.publication
    if publication is None or publication.model.manifest != model.manifest:
        return False
    return await aside(len(model.buffer), np.array_equal, publication.model.buffer, model.buffer)
