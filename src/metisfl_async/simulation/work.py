"""What a worker of a simulation does: makes learners, has each do its task, and folds what they give."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.messages import TRAINED_BEFORE
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.core.strategies.aggregation.infinities import Infinities
from metisfl_async.core.strategies.aggregation.partial_sum import Contribution
from metisfl_async.core.strategies.aggregation.resemblance import portrait
from metisfl_async.core.strategies.scaling import weight_of
from metisfl_async.learner import calls
from metisfl_async.learner.away import users_part
from metisfl_async.learner.elsewhere import Raised
from metisfl_async.learner.learner import Config, Learner
from metisfl_async.learner.outcome import Trained, checked_evaluation
from metisfl_async.simulation.errand import Done, Errand, Moved, Single, Task, Weighing, failed
from metisfl_async.simulation.maker import MakeLearner, Maker
from metisfl_async.simulation.parcel import Parcel

__all__ = ["work", "work_with"]

T = TypeVar("T")


def work(make_learner: MakeLearner, errand: Errand) -> Done:
    """Do an errand: a learner exists while it does its task."""
    return work_with(Maker(make_learner), errand)


def work_with(maker: Maker, errand: Errand) -> Done:
    """Do an errand. What one learner raises costs nobody else anything."""
    worker = _Worker(maker, errand)
    for given in errand.tasks:
        task = given.bare()  # what is said of it need not carry the state back
        try:
            worker.do(task, given.state)
        except Exception as error:  # noqa: BLE001 - it is the user's code
            worker.fail(task, error, users_part(error.__traceback__, __name__))
        except BaseException as error:  # noqa: BLE001 - an exit is the learner's own, and not the worker's
            worker.fail(task, RuntimeError(f"{type(error).__name__}: {error}"), None)
    try:
        return worker.finished()
    except OSError as error:  # there is no room for the file
        worker.done.discard()
        return failed(errand.tasks, error)


class _Worker:
    """Has one learner after another do its task."""

    def __init__(self, maker: Maker, errand: Errand) -> None:
        self.done = Done()
        self._maker, self._errand = maker, errand
        self._model = None if errand.model is None else errand.model.unpack()
        self._folder: _Folder | None = None
        if self._model is not None and errand.weighing is not None:
            self._folder = _Folder(self._model, errand.weighing)

    def do(self, task: Task, state: Parcel | None) -> None:
        learner = self._maker.learner(task.number, keeps_state=self._errand.keeps_state, is_new=state is None)
        learner.task_seed, learner.owns_process = task.offer.seed or None, self._errand.owns_process
        config: Config = {"round_number": task.offer.round_number, **task.offer.config}
        if self._model is None:
            first = calls.pack_weights(learner, _awaited(learner.get_weights()))
            self._keep(task, first, {}, {TRAINED_BEFORE: learner.was_trained})
            return
        if state is not None:
            (remembered,) = state.unpack()
            learner.restore(remembered.tobytes())
        _awaited(learner.set_weights(calls.copied(learner, self._model)))
        if self._errand.kind is TaskKind.EVALUATE:
            self._evaluate(task, learner, self._model, config)
        else:
            self._train(task, learner, self._model, config)

    def fail(self, task: Task, error: Exception, trace: TracebackType | None) -> None:
        self.done.failed.append((task, Raised.of(error, trace)))

    def finished(self) -> Done:
        """Give what came of it all."""
        done, folder = self.done, self._folder
        if folder is not None and folder.contributions:
            done.parts = Parcel.pack(folder.total.parts(), self._errand.directory)
            done.contributions, done.model = folder.contributions, (folder.total.manifest, folder.version)
        return done

    def _evaluate(self, task: Task, learner: Learner, model: Model, config: Config) -> None:
        metrics = _awaited(learner.evaluate(calls.copied(learner, model), calls.own(config)))
        measured = checked_evaluation(metrics, config)
        self.done.evaluated.append((task, measured.metrics))
        self.done.left_out |= measured.left_out

    def _train(self, task: Task, learner: Learner, model: Model, config: Config) -> None:
        result = _awaited(learner.train(calls.copied(learner, model), calls.own(config)))
        trained = calls.pack_result(learner, result, model.manifest, config)
        self.done.left_out |= trained.left_out
        if self._errand.keeps_state and (state := learner.state()) is not None:
            parcel = Parcel.pack([np.frombuffer(state, np.uint8)], self._errand.directory)
            self.done.states.append((task, parcel))
        if self._folder is None:
            update = replace(trained.model, version=model.version)
            self._keep(task, update, trained.metrics, trained.metadata)
        elif (refusal := self._folder.fold(task, trained)) is not None:
            self.done.refused.append((task, *refusal))

    def _keep(self, task: Task, model: Model, metrics: Metrics, metadata: dict[str, Json]) -> None:
        self.done.singles.append(Single(task, Moved.of(model, self._errand.directory), metrics, metadata))


class _Folder:
    """Folds updates as the controller does, after the same checks."""

    def __init__(self, model: Model, weighing: Weighing) -> None:
        self.total, self.version = weighing.sum_form(model.manifest), model.version
        self.contributions: list[Contribution] = []
        self._weighing, self._infinities = weighing, Infinities.of(model)
        self._base = model if self._infinities is None else self._infinities.without(model)

    def fold(self, task: Task, trained: Trained) -> tuple[str, str] | None:
        """Add an update to the sum, or say why not: the error's type, and its text."""
        update, weighing = trained.model, self._weighing
        try:
            weight = weight_of(weighing.factor, task.learner, trained.metadata, trained.metrics, weighing.max_weight)
        except ConfigError as error:
            return type(error).__name__, str(error)
        if self._infinities is not None:
            self._infinities.clear(update)
        if (problem := unfit(update)) is not None:
            return "NotFinite", problem
        seen = portrait(update, self._base)
        self.total.add(update, weight)
        share = Contribution(task.learner, task.offer.task_id, weight, seen, trained.metrics, trained.metadata)
        self.contributions.append(share)
        return None


def _awaited(result: T | Awaitable[T]) -> T:
    """Give what a learner's method gives; one that is a coroutine runs in a loop of its own."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    given: T = asyncio.run(wait())
    return given
