"""What is given up in a simulation holds up nothing else, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import simulated
from federations import files_of_at_most

from metisfl_async import Controller, ControllerConfig, DriverSession, QuorumLost, Simulation, TerminationSignals
from metisfl_async.codec.publication import Publication
from metisfl_async.controller.crowd import Crowd
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, TaskId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.partial_sum import PartialSum
from metisfl_async.simulation.engine import Engine
from metisfl_async.simulation.errand import Done, Errand, Moved, Task, Weighing
from metisfl_async.simulation.hands import Processes
from metisfl_async.simulation.lending import Lending
from metisfl_async.simulation.parcel import Parcel
from metisfl_async.simulation.states import States
from metisfl_async.simulation.work import work

MODEL = ModelRef(FederationId("f"), 0)


def offer_of(number: int, kind: TaskKind = TaskKind.TRAIN) -> TaskOffer:
    return TaskOffer(TaskId(f"task-{number}"), kind, 1, MODEL, {})


@dataclass
class FederationOfSums:
    """Takes sums, each in its turn, and notes whose they are."""

    id: FederationId = MODEL.federation_id
    takes_sums: bool = True
    may_order: bool = True
    sum_form: type[Sum] = Sum
    taken: list[str] = field(default_factory=list)
    has_taken_two: asyncio.Event = field(default_factory=asyncio.Event)
    posted: list[object] = field(default_factory=list)

    @property
    def sums(self) -> FederationOfSums:
        return self

    def published(self) -> Publication:
        return Publication(Model.from_arrays([np.zeros(simulated.SIZE, np.float32)]))

    def post(self, happened: object) -> None:
        self.posted.append(happened)

    async def receive(self, partial: PartialSum, turn: asyncio.Event | None) -> Sequence[None]:
        assert turn is not None
        await turn.wait()
        self.taken += [share.learner for share in partial.contributions]
        if len(self.taken) == 2:
            self.has_taken_two.set()
        return [None] * len(partial.contributions)


class FickleCrowd:
    """Is offered a task for each learner; that of the first is withdrawn in the same breath."""

    def __init__(self, job: FederationOfSums) -> None:
        self.job: Callable[[str], FederationOfSums] = lambda federation_id: job
        self._job, self._has_heard = job, False
        self._learners: Sequence[LearnerId] = ()

    @property
    def is_dismissed(self) -> bool:
        return self._job.has_taken_two.is_set()

    async def join(self, learners: Sequence[LearnerId]) -> None:
        self._learners = learners

    async def heard(self) -> tuple[list[tuple[LearnerId, TaskOffer]], set[TaskId]]:
        if self._has_heard:
            await self._job.has_taken_two.wait()
            return [], set()
        self._has_heard = True
        return [(learner, offer_of(number)) for number, learner in enumerate(self._learners)], {TaskId("task-0")}

    async def leave(self) -> None:
        """Nobody is told."""


async def test_a_task_that_is_withdrawn_at_once_holds_up_no_sum() -> None:
    job = FederationOfSums()
    with ThreadPoolExecutor(2) as executor:
        simulation = Simulation(simulated.Draws, learners=3, executor=executor)
        async with asyncio.timeout(10):
            await Engine(simulation, cast("Crowd", FickleCrowd(job)), ControllerConfig()).run()
    assert job.taken == ["learner-1", "learner-2"]


def block_until_done(errand: Future[Done]) -> None:
    while not errand.done():
        time.sleep(0.001)


async def test_a_process_whose_errand_is_given_up_when_it_is_done_does_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errands: list[Future[Done]] = []
    submit = ThreadPoolExecutor.submit

    def noted(self: ThreadPoolExecutor, *args: Any) -> Future[Any]:
        errands.append(submit(self, *args))
        return errands[-1]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", noted)
    async with Processes(simulated.large, 1) as hands:
        assert hands.directory is not None
        task = Task(0, LearnerId("learner-0"), offer_of(0, TaskKind.GET_WEIGHTS))
        errand = Errand([task], None, directory=hands.directory)
        given_up = asyncio.create_task(hands.do(errand, lambda: None))
        await asyncio.sleep(0)
        block_until_done(errands[-1])  # the loop does not hear of it first
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert os.listdir(hands.directory) == []
        done = await hands.do(errand, lambda: None)
        assert [single.task for single in done.singles] == [task]


def test_a_full_disk_is_a_failure_of_the_tasks_and_not_of_the_worker(tmp_path: Path) -> None:
    moved = Moved.of(Model.from_arrays([np.zeros(100_000, np.float32)]), None)
    tasks = [Task(number, LearnerId(f"learner-{number}"), offer_of(number)) for number in (0, 1)]
    errand = Errand(tasks, moved, Weighing("NumTrainingExamples", 1e6), str(tmp_path))
    with files_of_at_most(100_000):
        done = work(simulated.large, errand)
    assert [(task, raised.name) for task, raised in done.failed] == [(task, "OSError") for task in tasks]
    assert done.failed[0][1].text == f"[Errno 27] File too large: '{tmp_path}'"
    assert done.parts is None
    assert os.listdir(tmp_path) == []


async def test_a_model_that_is_being_written_for_whom_nobody_waits_any_more_is_written_once(tmp_path: Path) -> None:
    model, ref = Model.from_arrays([np.zeros(100_000, np.float32)]), ModelRef(FederationId("f" * 32), 1)
    may_write = threading.Event()
    with ThreadPoolExecutor(1) as writer:
        lending = Lending(str(tmp_path), writer)
        writer.submit(may_write.wait)

        async def read() -> None:
            async with lending.lent(ref, model):
                pass

        given_up = asyncio.create_task(read())
        await asyncio.sleep(0)
        given_up.cancel()
        may_write.set()
        await asyncio.wait([given_up])
        await read()
    assert len(os.listdir(tmp_path)) == 1


async def test_where_a_model_cannot_be_written_for_the_workers_the_tasks_fail_and_the_run_says_so() -> None:
    first = [np.zeros(100_000, np.float32)]
    controller = Controller(None, ControllerConfig(max_failed_rounds=1))
    signals = TerminationSignals(federation_rounds=1)
    simulation = Simulation(simulated.large, learners=2, workers=1)
    with files_of_at_most(100_000), pytest.raises(QuorumLost, match=r"File too large: '.*metisfl-simulation-"):
        await DriverSession(controller, simulation, signals, initial_weights=first).run()


async def test_half_a_state_is_not_left_on_a_full_disk(tmp_path: Path) -> None:
    task = Task(0, LearnerId("learner-0"), offer_of(0))
    done = Done(states=[(task, Parcel([np.zeros(200_000, np.uint8)]))])
    with ThreadPoolExecutor(1) as writer, files_of_at_most(100_000), pytest.raises(OSError, match="200000 requested"):
        await States(tmp_path, writer).take(done)
    assert os.listdir(tmp_path) == []
