"""The parties of a federation as processes that write a history, and die where they are told to.

Nothing of this is in the library: what is recorded, and where a process kills itself, is put around the library's
functions in the process that does it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
from durability.history import Log, Pen
from redis.asyncio.client import Pipeline

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.controller import farewell
from metisfl_async.controller.aggregator import Aggregator
from metisfl_async.controller.dispatcher import Dispatcher
from metisfl_async.controller.farewell import Farewells
from metisfl_async.controller.job import Job
from metisfl_async.controller.keeper import Keeper
from metisfl_async.controller.upload import Upload
from metisfl_async.core.federation.inputs import Accepted, Arrived, Published
from metisfl_async.core.federation.tasks import TaskKind, Verdict
from metisfl_async.core.ids import TaskId
from metisfl_async.core.messages import ControllerMessage, Counted, Outcome, TaskOffer, UpdateReply, Welcome
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.resemblance import Portrait
from metisfl_async.driver import following
from metisfl_async.learner import spool
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.learner.part import Drop, Part, Step
from metisfl_async.learner.spool import Spool, Spooled
from metisfl_async.learner.worker import Worker
from metisfl_async.store import disk, redis_lock
from metisfl_async.store.base import GLOBAL
from metisfl_async.store.disk import DiskStore
from metisfl_async.store.journal import Journal
from metisfl_async.store.redis import RedisStore
from metisfl_async.store.redis_server import Server
from metisfl_async.transport import retry
from metisfl_async.transport.grpc_link import GrpcLink

__all__ = [
    "POINTS",
    "Death",
    "RecordingPart",
    "Trains",
    "be_quick",
    "controller",
    "driver",
    "first_weights",
    "free_port",
    "learner",
    "started",
    "take_part",
    "trained_from",
    "written_down",
]


def be_quick() -> None:
    """Let nobody in this process, which is a party's, wait long for one that was killed."""
    redis_lock.LOCK_S, redis_lock.RENEW_S, redis_lock.LOOK_S = 0.5, 0.1, 0.05
    farewell.RETURN_S = 3.0  # for learners that have left before
    retry.MAX_BACKOFF_S = 0.3
    vars(following)["PATIENCE_S"] = 2.0  # with a controller that does not answer


def started(party: Callable[..., None], *args: object) -> ForkServerProcess:
    """Start a party in a process of its own; what it imports is there already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=party, args=args, daemon=True)
    # Python 3.11 does not tell the server where we import from, and the server does not say that it could not.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        process.start()
    return process


def free_port() -> int:
    """Give a port that nobody listens on, and that no connection will have until somebody does."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000))) as server:
            port: int = server.getsockname()[1]
            return port


# --- the controller --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """A party kills itself before or after what happens at a point for the k-th time.

    At "step", it does so before the k-th step of its second commit of a model, or after the last if there are fewer; a
    learner, of its second saved update.
    """

    point: str
    when: str = "before"
    k: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.point} {self.k}"


Points: TypeAlias = dict[str, tuple[Sequence[tuple[type, str]], Callable[..., bool]]]


def _sends(kind: type) -> Callable[..., bool]:
    def matches(_self: object, _learner: str, message: object) -> bool:
        return isinstance(message, kind) and (kind is not TaskOffer or message.kind is TaskKind.TRAIN)  # type: ignore[attr-defined]

    return matches


def _posts(kind: type) -> Callable[..., bool]:
    return lambda _self, happened: isinstance(happened, kind)


def _commits(which: str) -> Callable[..., bool]:
    def matches(_self: object, standing: str, *, model: Any = None, **_: Any) -> bool:
        if model is None:
            return which == ("finish" if json.loads(standing)["is_finished"] else "opening")
        return which == ("model" if model.version > 0 else "first")

    return matches


#: Where a controller may die: around which functions, for which of their arguments.
POINTS: Points = {
    "begun": ([(DiskStore, "begin"), (RedisStore, "begin")], lambda *_: True),
    "first weights": ([(Keeper, "commit")], _commits("first")),
    "opened": ([(Keeper, "commit")], _commits("opening")),
    "offered": ([(Dispatcher, "_send")], _sends(TaskOffer)),
    "accepted": ([(Dispatcher, "post")], _posts(Accepted)),
    "received": ([(Dispatcher, "post")], _posts(Arrived)),
    "folded": ([(Aggregator, "_fold")], lambda *_: True),
    "inserted": ([(DiskStore, "insert"), (RedisStore, "insert")], lambda *_: True),
    "written": (
        [(DiskStore, "_write"), (RedisStore, "_write")],
        lambda _self, _federation, owner, what, _written: owner == GLOBAL and what.model.version > 0,
    ),
    "committed": ([(Keeper, "commit")], _commits("model")),
    "published": ([(Dispatcher, "post")], _posts(Published)),
    "told": ([(Dispatcher, "_send")], _sends(Counted)),
    "finished": ([(Keeper, "commit")], _commits("finish")),
    "concluded": (
        [(DiskStore, "commit"), (RedisStore, "commit")],
        lambda *_, is_finished=False, **__: is_finished,
    ),
    "farewell": ([(Farewells, "say")], lambda *_: True),
}

#: What is done to a store's place, or to a spool_dir, one after another: between them, something is half done.
STEPS: Sequence[tuple[Any, str]] = [
    (disk, "write"),
    (spool, "write"),
    (os, "fsync"),
    (Path, "replace"),
    (Path, "unlink"),
    (Journal, "_execute"),
    (Server, "once"),
    (Pipeline, "execute"),
]


class Steps:
    """Counts the steps of what is being saved, and dies before one of the second time.

    How many steps there are is not the same each time: where there are fewer, it dies after the last.
    """

    def __init__(self, death: Death | None) -> None:
        self._dies_before = death.k if death is not None and death.point == "step" else None
        self._times, self._is_inside = 0, False
        self.done = 0
        for owner, name in STEPS:
            self._count(owner, name)

    def begin(self) -> None:
        self._times, self._is_inside, self.done = self._times + 1, True, 0

    def end(self) -> None:
        self._is_inside = False
        if self._times == 2 and self._dies_before is not None:
            die()

    def _count(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        async def in_loop(*args: Any, **kwargs: Any) -> Any:
            task = asyncio.current_task()
            if task is None or task.get_name() != "renew-store-lock":
                self._note()
            return await original(*args, **kwargs)

        @functools.wraps(original)
        def at_once(*args: Any, **kwargs: Any) -> Any:
            self._note()
            return original(*args, **kwargs)

        setattr(owner, name, in_loop if inspect.iscoroutinefunction(original) else at_once)

    def _note(self) -> None:
        if self._is_inside:
            self.done += 1
            if self._times == 2 and self.done == self._dies_before:
                die()


def controller(
    path: Path, port: int, config: ControllerConfig, store: ModelStoreConfig, death: Death | None = None
) -> None:
    """Be the controller until a driver shuts it down, or until the death; go on if there was one before."""
    be_quick()
    log = Log(path, "controller")
    log.write("starts", death=str(death))
    for (owner, name), writing in written_down(log, Steps(death)).items():
        setattr(owner, name, writing)
    _die_at(death, POINTS, sends_first=True)

    async def serve() -> None:
        async with Controller(ServerParams(port=port), config, store, resume=store.is_durable) as opened:
            await opened.serve()

    asyncio.run(serve())
    log.write("ends")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at(death: Death | None, points: Points, *, sends_first: bool = False) -> None:
    """Let this process die there; with `sends_first`, what it has said until then gets out."""
    if death is None or death.point == "step":
        return
    owners, matches = points[death.point]
    numbers = itertools.count(1)

    def is_due(*args: Any, **kwargs: Any) -> bool:
        return matches(*args, **kwargs) and next(numbers) == death.k

    for owner, name in owners:
        _die_around(owner, name, is_due, death.when, sends_first=sends_first)


def _die_around(owner: type, name: str, is_due: Callable[..., bool], when: str, *, sends_first: bool) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def in_loop(*args: Any, **kwargs: Any) -> Any:
        dies = is_due(*args, **kwargs)
        if dies and when == "before":
            die()
        result = await original(*args, **kwargs)
        if dies:
            die()
        return result

    @functools.wraps(original)
    def at_once(*args: Any, **kwargs: Any) -> Any:
        dies = is_due(*args, **kwargs)
        if dies and when == "before":
            die()
        result = original(*args, **kwargs)
        if dies:
            if not sends_first:
                die()
            asyncio.get_running_loop().call_later(0.02, die)
        return result

    setattr(owner, name, in_loop if inspect.iscoroutinefunction(original) else at_once)


def written_down(log: Pen, steps: Steps | None = None) -> dict[tuple[type, str], Callable[..., Any]]:
    """Give methods in whose place a controller writes down what it folds, commits and resumes."""
    fold, commit, resume, conclude = Aggregator._fold, Keeper.commit, Job.resume, Job.conclude

    async def folding(self: Aggregator, upload: Upload) -> Portrait:
        seen = await fold(self, upload)
        facts = {"task": upload.header.task_id, "version": upload.model.version, "weight": upload.weight}
        log.write("folded", learner=upload.learner, **facts)
        return seen

    async def committing(self: Keeper, standing: str, *, model: Any = None, **kwargs: Any) -> None:
        is_new = model is not None and model.version > 0
        if is_new:
            log.write("committing", version=model.version)
            if steps is not None:
                steps.begin()
        await commit(self, standing, model=model, **kwargs)
        if is_new:
            if steps is not None:
                steps.end()
            log.write("committed", version=model.version, steps=0 if steps is None else steps.done)

    async def resuming(self: Job) -> bool:
        is_started = await resume(self)
        publication = self.aggregator.publication
        if is_started:
            log.write("resumed", version=None if publication is None else publication.model.version)
        return is_started

    async def concluding(self: Job) -> None:
        log.write("concluding")
        await conclude(self)

    return {
        (Aggregator, "_fold"): folding,
        (Keeper, "commit"): committing,
        (Job, "resume"): resuming,
        (Job, "conclude"): concluding,
    }


# --- learners --------------------------------------------------------------------------------------------------------


def first_weights() -> list[Array]:
    return [np.array([1.0, -0.5, 0.25], np.float32), np.array(0, np.int64)]


def trained_from(parameters: Sequence[Array], number: int) -> list[Array]:
    """Say what learner `number` makes of a model."""
    weights, count = parameters
    return [(weights * np.float32(0.75) + np.float32(number)).astype(np.float32), count + np.int64(1)]


class Trains(Learner):
    """Makes of a model what only its number decides, after a while."""

    def __init__(self, number: int, pause_s: float = 0.0) -> None:
        super().__init__(num_training_examples=number)
        self._number, self._pause_s = number, pause_s

    def get_weights(self) -> list[Array]:
        return first_weights()

    def set_weights(self, parameters: list[Array]) -> None:
        pass

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        time.sleep(self._pause_s)
        return trained_from(parameters, self._number), {}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"sum": float(parameters[0].sum())}


class RecordingPart(Part):
    """Writes down what a learner trained, was told and dropped."""

    def __init__(self, log: Pen) -> None:
        super().__init__()
        self._log = log
        self.client: LearnerClient

    def told(self, message: ControllerMessage) -> list[Step]:
        if isinstance(message, Counted):
            self._counted(message.task_ids, "Counted")
        if isinstance(message, Welcome):
            counted = [task for task, (verdict, _) in message.verdicts.items() if verdict is Verdict.COUNTED]
            self._counted(counted, "verdict")
            self._log.write("welcomed", verdicts={task: verdict for task, (verdict, _) in message.verdicts.items()})
        return self._noting_drops(super().told(message))

    def joined(self, reply: Any) -> list[Step]:
        return self._noting_drops(super().joined(reply))

    def trained(self, task_id: TaskId) -> list[Step]:
        if self.holds(task_id) and self.offer_of(task_id).kind is TaskKind.TRAIN:
            self._log.write("trained", task=task_id, version=self.client._updates[task_id].model_version)
        return super().trained(task_id)

    def answered(self, task_id: TaskId, reply: UpdateReply) -> list[Step]:
        if self.holds(task_id) and self.offer_of(task_id).kind is TaskKind.TRAIN:
            self._log.write("answered", task=task_id, outcome=reply.outcome)
            if reply.outcome is Outcome.COUNTED:
                self._counted([task_id], "answer")
            elif reply.outcome in (Outcome.REFUSED, Outcome.CANCELLED):
                self._log.write("dropped", task=task_id, why=reply.reason)
        return super().answered(task_id, reply)

    def _counted(self, task_ids: Sequence[str], how: str) -> None:
        for task_id in task_ids:
            if not self.holds(TaskId(task_id)) or self.offer_of(TaskId(task_id)).kind is TaskKind.TRAIN:
                self._log.write("told", task=task_id, how=how)

    def _noting_drops(self, steps: list[Step]) -> list[Step]:
        for step in steps:
            if isinstance(step, Drop):
                self._log.write("dropped", task=step.task_id, why=step.reason)
        return steps


async def take_part(path: Path, port: int, name: str, learner_: Learner, spool_dir: Path | None = None) -> None:
    """Be a learner until the federation is over."""
    log = Log(path, name)
    log.write("starts")
    link, part = GrpcLink(ClientParams(port=port)), RecordingPart(log)
    try:
        kept = None if spool_dir is None else Spool(spool_dir)
        client = part.client = LearnerClient(link, Worker(learner_, "thread"), name, spool=kept)
        client._part = part
        await client.run()
        log.write("ends")
    finally:
        await link.close()
        log.close()


class TrainsAloud(Trains):
    """Says so before it trains; what is only finished, and saved nowhere, is known by nobody else."""

    def __init__(self, log: Log, number: int, pause_s: float) -> None:
        super().__init__(number, pause_s)
        self._log = log

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self._log.write("trains", version=int(parameters[1]))
        return super().train(parameters, config)


def _hears(kind: type) -> Callable[..., bool]:
    return lambda _self, message: (
        isinstance(message, kind) and (not isinstance(message, TaskOffer) or message.kind is TaskKind.TRAIN)
    )


LEARNERS_POINTS: Points = {
    "received": ([(RecordingPart, "told")], _hears(TaskOffer)),
    "trained": ([(Worker, "train")], lambda *_: True),
    "saved": ([(Spool, "save")], lambda *_: True),
    "ready": ([(RecordingPart, "trained")], lambda *_: True),
    "sent": ([(GrpcLink, "train_done")], lambda *_: True),
    "folded": (
        [(RecordingPart, "answered")],
        lambda _self, _task_id, reply: reply.outcome is Outcome.FOLDED,
    ),
    "counted": ([(RecordingPart, "told")], _hears(Counted)),
    "forgotten": ([(Spool, "forget")], lambda *_: True),
}


def learner(  # noqa: PLR0917 - they are given to a process
    path: Path,
    port: int,
    name: str,
    number: int,
    pause_s: float,
    spool_dir: Path | None = None,
    death: Death | None = None,
) -> None:
    """Be a learner until the federation is over, or until the death."""
    be_quick()
    log, steps, save = Log(path, name), Steps(death), Spool._save
    _die_at(death, LEARNERS_POINTS)

    def saving(self: Spool, spooled: Spooled) -> None:
        steps.begin()
        save(self, spooled)
        steps.end()
        log.write("saved", steps=steps.done)

    Spool._save = saving  # type: ignore[method-assign]
    asyncio.run(take_part(path, port, name, TrainsAloud(log, number, pause_s), spool_dir))


# --- the driver ------------------------------------------------------------------------------------------------------


DRIVERS_POINTS: Points = {
    "model given": ([(GrpcLink, "set_initial_model")], lambda *_: True),
    "started": ([(GrpcLink, "start_training")], lambda *_: True),
    "watched": ([(DriverSession, "_note")], lambda *_: True),
    "records fetched": ([(GrpcLink, "get_logs")], lambda *_: True),
    "model fetched": ([(GrpcLink, "get_model")], lambda *_: True),
    "shut down": ([(GrpcLink, "shut_down")], lambda *_: True),
}


def driver(  # noqa: PLR0917 - likewise
    path: Path, port: int, num_learners: int, signals: TerminationSignals, resume: bool, death: Death | None = None
) -> None:
    """Be the driver, and write down the result."""
    be_quick()
    log = Log(path, "driver")
    log.write("starts")
    _die_at(death, DRIVERS_POINTS)
    session = DriverSession(
        ClientParams(port=port), num_learners, signals, initial_weights=first_weights(), lost_secs=None
    )
    result = asyncio.run(session.run(resume=resume))
    weights = None if result.final_model is None else result.final_model[0].tolist()
    log.write("result", model=weights, rounds=[record.to_dict() for record in result.rounds])
