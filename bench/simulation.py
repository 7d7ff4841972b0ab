"""A federation in simulated time: the real decisions and the real rules, learners of any speed, and no waiting.

Nothing moves here and nobody dials; what a round costs is what its learners' batches cost. So the schedulers can be
compared in seconds, and with the same outcome everywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from metisfl_async import ControllerConfig, Model, TerminationSignals
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Forget,
    Offer,
    Receive,
    StartTimer,
    StopTimer,
    TimerName,
)
from metisfl_async.core.federation.continuous import ContinuousFederation
from metisfl_async.core.federation.events import RoundFinished
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.in_rounds import FederationInRounds
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId, StreamId, new_federation_id
from metisfl_async.core.messages import TaskOffer
from metisfl_async.core.strategies.strategies import Strategies
from metisfl_async.strategies import Update

__all__ = ["Simulated", "Simulation"]


@dataclass
class Simulated:
    """A learner: how much data it has, how long a batch takes it, and what it does with a model in so many batches."""

    name: LearnerId
    ms_per_batch: float
    batches_per_epoch: int
    train: Callable[[Model, int], Model] = lambda model, batches: model
    weight: float = 1.0
    joins_ms: float = 0.0  #: when it joins; training begins once all are there that join at 0
    finished_ms: list[float] = field(default_factory=list)  #: when it reported
    batches: list[int] = field(default_factory=list)  #: of each task


class Simulation:
    """Runs one federation to its end; `published` has each global model with the time when it was made."""

    def __init__(
        self,
        config: ControllerConfig,
        learners: Sequence[Simulated],
        first: Model,
        signals: TerminationSignals,
    ) -> None:
        self.now_ms = 0.0
        self.published: list[tuple[float, Model]] = [(0.0, first)]
        self.learners = {learner.name: learner for learner in learners}
        self.strategies = Strategies(config)
        kind = FederationInRounds if self.strategies.in_rounds else ContinuousFederation
        self.federation: Federation = kind(new_federation_id(), config, self.strategies)
        self._signals = signals
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._timers: dict[TimerName, int] = {}
        self._latest: dict[LearnerId, Update] = {}  # of each learner, where updates are kept
        self._due: int | None = None  # the version that is to be made
        self.records: list[RoundRecord] = []
        self._is_finished = False

    def run(self) -> None:
        """Go on until the federation is over."""
        self.strategies.rule.start(self.published[0][1])
        early = [learner.name for learner in self.learners.values() if learner.joins_ms == 0.0]
        for learner in self.learners.values():
            if learner.name in early:
                self.join(learner.name)
            else:
                self.after(learner.joins_ms, partial(self.join, learner.name))
        self._hear(happened.Start(self._signals, len(early), seed=1, is_model_given=True))
        while not self._is_finished:
            self.now_ms, _, happen = heapq.heappop(self._events)
            happen()
            while (version := self._due) is not None:  # before any other update is folded
                self._due = None
                self._publish(version)

    def join(self, name: LearnerId) -> None:
        self._hear(happened.Joined(name))

    def after(self, ms: float, happen: Callable[[], object]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now_ms + ms, next(self._order), happen))

    def _hear(self, what: happened.Input) -> list[Command]:
        """Let something happen, and carry out what follows; what is about an update is left to its sender."""
        commands = self.federation.handle(what, self.now_ms / 1e3)
        for command in commands:
            match command:
                case Offer(learner, task):
                    self._hear(happened.Accepted(learner, task.task_id))
                    self._work(learner, task)
                case Aggregate(version, others):
                    for learner in others:
                        self.strategies.rule.fold(self._latest[learner])
                    self._due = version
                case Discard():
                    self.strategies.rule.discard()
                case Forget(learner):
                    if (update := self._latest.pop(learner, None)) and self.strategies.rule.needs_previous:
                        self.strategies.rule.remove(update)
                case StartTimer(name, seconds):
                    self._timers[name] = number = next(self._order)
                    self.after(seconds * 1e3, partial(self._fire, name, number))
                case StopTimer(name):
                    self._timers.pop(name, None)
                case Announce(RoundFinished(record)):
                    self.records.append(record)
                case Finish():
                    self._is_finished = True
                case _:
                    pass
        return commands

    def _work(self, name: LearnerId, task: TaskOffer) -> None:
        learner = self.learners[name]
        if task.kind is TaskKind.EVALUATE:
            self.after(0.0, lambda: self._hear(happened.Evaluated(name, task.task_id, {})))
            return
        model = next(model for _, model in reversed(self.published) if model.version == task.model_version)
        epochs, updates = task.config.get("epochs", 1), task.config.get("num_local_updates")
        assert isinstance(epochs, int)
        batches = updates if isinstance(updates, int) else epochs * learner.batches_per_epoch
        self.after(batches * learner.ms_per_batch, lambda: self._report(task, learner, model, batches))

    def _report(self, task: TaskOffer, learner: Simulated, model: Model, batches: int) -> None:
        stream = StreamId(next(self._order))
        if not any(isinstance(c, Receive) for c in self._hear(happened.Admit(stream, learner.name, task.task_id))):
            return  # it is not wanted any more
        self._hear(happened.Arrived(stream))
        learner.finished_ms.append(self.now_ms)
        learner.batches.append(batches)
        staleness = self.published[-1][1].version - task.model_version
        trained = learner.train(model, batches)
        previous = self._latest.get(learner.name) if self.strategies.rule.needs_previous else None
        self.strategies.rule.fold(Update(learner.name, trained, learner.weight, staleness, previous))
        if self.strategies.keeps_updates:
            self._latest[learner.name] = Update(learner.name, trained, learner.weight)
        metadata = {
            "num_completed_batches": batches,
            "processing_ms_per_batch": learner.ms_per_batch,
            "processing_ms_per_epoch": learner.ms_per_batch * learner.batches_per_epoch,
        }
        self._hear(happened.Folded(stream, learner.weight, {}, dict(metadata)))

    def _publish(self, version: int) -> None:
        self.published.append((self.now_ms, self.strategies.rule.aggregate(version)))
        self._hear(happened.Published(version))

    def _fire(self, name: TimerName, number: int) -> None:
        if self._timers.get(name) != number:
            return  # stopped, or started anew
        del self._timers[name]
        self._hear(happened.TimerFired(name))
