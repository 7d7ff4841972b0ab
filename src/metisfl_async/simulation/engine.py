"""Runs simulated learners: takes in their tasks, has workers do them, and hands in what comes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from metisfl_async.controller.crowd import Crowd
from metisfl_async.controller.job import Job
from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation.inputs import Moved, Served
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId, ModelRef, TaskId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.simulation.dealing import cut
from metisfl_async.simulation.errand import Done, Errand, Task, Weighing, failed
from metisfl_async.simulation.handing_in import HandingIn
from metisfl_async.simulation.hands import Hands
from metisfl_async.simulation.lending import Lending
from metisfl_async.simulation.process import WorkerDied
from metisfl_async.simulation.simulation import Simulation
from metisfl_async.simulation.states import States
from metisfl_async.simulation.timetable import Place, Timetable, clock_held
from metisfl_async.transport.concurrency import to_the_end

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

Begin: TypeAlias = Callable[[], object]

DIED_TWICE = (
    "the worker died, twice (stderr may say why); make_learner must be in a module that can be imported, not in a "
    'notebook cell, and a script must start under `if __name__ == "__main__":`'
)


@dataclass(slots=True, eq=False)
class _Run:
    """An errand under way."""

    tasks: Sequence[Task]
    before: asyncio.Event  #: set once the errand before it is handed in
    after: asyncio.Event = field(default_factory=asyncio.Event)  #: set once this one is
    wanted: set[TaskId] = field(default_factory=set)
    doing: asyncio.Task[None] | None = None
    place: Place | None = None  #: on the timetable, if learners have speeds

    @property
    def kind(self) -> TaskKind:
        return self.tasks[0].offer.kind


@dataclass(frozen=True, slots=True)
class _Means:
    """What a run works with."""

    hands: Hands
    lending: Lending
    states: States | None
    timetable: Timetable


class Engine:
    """Stands between a controller and the workers of a simulation.

    A round is cut into errands by its learners alone, and sums are folded in that order: so its model does not depend
    on how many workers there are, nor on who is faster. Where a scheduler decides on who has reported, they are folded
    as they come. Where learners have speeds, each update comes when it is due.
    """

    def __init__(self, simulation: Simulation, crowd: Crowd, config: ControllerConfig) -> None:
        self._simulation, self._crowd, self._config = simulation, crowd, config
        self._numbers = {learner: number for number, learner in enumerate(simulation.ids)}
        self._runs: dict[TaskId, _Run] = {}
        self._served: dict[LearnerId, ModelRef] = {}  # of each learner: the last model that it was given
        self._handing_in = HandingIn(crowd)
        self._speeds = simulation.pace()

    async def run(self) -> None:
        """Join, work until the federation is over, and leave."""
        try:
            with ThreadPoolExecutor(1, "metisfl-simulation") as writer, self._simulation.states(writer) as states:
                async with self._simulation.hands() as hands:
                    await self._work(_Means(hands, Lending(hands.directory, writer), states, Timetable(hands.ahead)))
        finally:
            await to_the_end(self._crowd.leave())

    async def _work(self, means: _Means) -> None:
        async with asyncio.TaskGroup() as group:
            await self._crowd.join(list(self._numbers))
            while not self._crowd.is_dismissed:
                offers, withdrawn = await self._crowd.heard()
                for run in self._dealt(offers):
                    if self._speeds is not None:
                        run.place = means.timetable.enter(max(map(self._speeds.of, run.tasks)))
                    run.doing = group.create_task(self._carry_out(run, means))
                    run.doing.add_done_callback(partial(_is_over, run, means.timetable))  # also before it has begun
                for task_id in withdrawn:
                    self._drop(task_id)
            for task_id in list(self._runs):
                self._drop(task_id)
            await self._crowd.leave()

    def _dealt(self, offers: Sequence[tuple[LearnerId, TaskOffer]]) -> Iterator[_Run]:
        """Cut tasks that came together into errands."""
        alike: dict[tuple[TaskKind, ModelRef], list[Task]] = {}
        for learner, offer in offers:
            alike.setdefault((offer.kind, offer.model), []).append(Task(self._numbers[learner], learner, offer))
        for (kind, model), tasks in alike.items():
            job = self._crowd.job(model.federation_id)
            is_summed = job is not None and self._is_summed(job, kind)
            before = asyncio.Event()
            before.set()
            for some in cut(tasks, self._simulation.sizes, is_summed=is_summed):
                run = _Run(some, before)
                run.wanted.update(task.offer.task_id for task in run.tasks)
                self._runs.update(dict.fromkeys(run.wanted, run))
                before = run.after
                yield run

    def _is_summed(self, job: Job, kind: TaskKind) -> bool:
        """Whether learners of one errand may report together; else an update would wait for the others'."""
        return job.takes_sums and (self._speeds is None or kind is not TaskKind.TRAIN)

    def _drop(self, task_id: TaskId) -> None:
        """Let a task go; an errand of which nothing is wanted any more ends."""
        if (run := self._runs.pop(task_id, None)) is not None:
            run.wanted.discard(task_id)
            if not run.wanted and run.doing is not None:
                run.doing.cancel()

    async def _carry_out(self, run: _Run, means: _Means) -> None:
        try:
            job = self._crowd.job(run.tasks[0].offer.model.federation_id)
            for done in [] if job is None else await self._done(job, run, means):
                assert job is not None
                kept = done if means.states is None else await _with_states_kept(done, run.tasks, means.states)
                await self._handing_in.take(job, kept, run.before if job.may_order else None)
        finally:
            for task in run.tasks:
                self._runs.pop(task.offer.task_id, None)

    async def _done(self, job: Job, run: _Run, means: _Means) -> list[Done]:
        where = means.hands.directory, means.hands.owns_processes, means.states is not None
        if run.kind is TaskKind.GET_WEIGHTS:
            return await self._timed(run, Errand(run.tasks, None, None, *where), means, lambda: None)
        manifest, version = job.published().model.manifest, job.published().model.version
        ref = ModelRef(job.id, version)

        def begin() -> None:
            for task in run.tasks:
                if task.offer.task_id in self._runs:  # it is still wanted
                    self._serve(job, task.learner, ref, manifest.size_bytes)

        is_folded = run.kind is TaskKind.TRAIN and self._is_summed(job, run.kind)
        facts = self._config.scaling_factor, self._config.max_weight, job.sum_form
        weighing = Weighing(*facts) if is_folded else None
        try:
            async with means.lending.lent(ref, job.published().model) as moved:
                tasks = run.tasks if means.states is None else await means.states.given(run.tasks)
                return await self._timed(run, Errand(tasks, moved, weighing, *where), means, begin)
        except OSError as error:  # there is no room for the model, say
            return [failed(run.tasks, error)]

    async def _timed(self, run: _Run, errand: Errand, means: _Means, begin: Begin) -> list[Done]:
        """Have an errand done: as soon as there is a worker, or when it is due."""
        if run.place is None or self._speeds is None:
            with clock_held():
                return await _tried(errand, means.hands, begin)
        begin()  # by the timetable, each learner is a machine of its own
        dones = await means.timetable.result(run.place, lambda: _tried(errand, means.hands, lambda: None))
        for done in dones:
            done.singles = [self._speeds.retold(single) for single in done.singles]
        return dones

    def _serve(self, job: Job, learner: LearnerId, ref: ModelRef, size_bytes: int) -> None:
        """Note that a learner has a model now; a real one would keep the last that it fetched."""
        if self._served.get(learner) != ref:
            self._served[learner] = ref
            job.post(Served(learner, ref.version))
            job.post(Moved(learner, sent=size_bytes, is_all=True))


def _is_over(run: _Run, timetable: Timetable, _: object) -> None:
    """Let the next one be handed in."""
    run.after.set()
    if run.place is not None:
        timetable.leave(run.place)


async def _with_states_kept(done: Done, tasks: Sequence[Task], states: States) -> Done:
    """Keep what learners remember; where that fails, so do their tasks."""
    try:
        await states.take(done)
    except OSError as error:  # there is no room, say
        done.discard()
        return failed(tasks, error)
    return done


async def _tried(errand: Errand, hands: Hands, begin: Begin) -> list[Done]:
    """Have an errand done; the tasks of a worker that died are tried once more, each by itself."""
    try:
        return [await _done_or_failed(errand, hands, begin)]
    except WorkerDied:
        logger.warning("a worker died at the tasks of %s; they are tried once more", _listed(errand))
    return [await _tried_again(single, hands, begin) for single in errand.apart()]


async def _tried_again(errand: Errand, hands: Hands, begin: Begin) -> Done:
    try:
        return await _done_or_failed(errand, hands, begin)
    except WorkerDied:
        return failed(errand.tasks, WorkerDied(DIED_TWICE))


def _listed(errand: Errand) -> str:
    return ", ".join(task.learner for task in errand.tasks)


async def _done_or_failed(errand: Errand, hands: Hands, begin: Begin) -> Done:
    try:
        return await hands.do(errand, begin)
    except WorkerDied:
        raise
    except Exception as error:  # noqa: BLE001 - whatever an executor of the user's raises, or pickling for it
        return failed(errand.tasks, error)
