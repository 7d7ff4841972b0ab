"""Carries out what the core decides: sends tasks, keeps timers, feeds the aggregator, tells the watchers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import assert_never

from metisfl_async.controller.aggregator import Aggregator
from metisfl_async.controller.keeper import Keeper
from metisfl_async.controller.registry import Registry
from metisfl_async.controller.updates import Updates
from metisfl_async.core.errors import MetisError
from metisfl_async.core.federation.commands import (
    Abandon,
    Aggregate,
    Announce,
    Answer,
    Command,
    Count,
    Discard,
    Finish,
    Fold,
    Forget,
    Greet,
    KeepBest,
    Offer,
    Receive,
    Save,
    StartTimer,
    StopTimer,
    TimerName,
    Withdraw,
)
from metisfl_async.core.federation.events import (
    Event,
    FederationFinished,
    FederationResumed,
    FirstWeights,
    LearnerJoined,
    LearnerLeft,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateRepeated,
)
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.inputs import Input, TimerFired
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.messages import ControllerMessage, Counted, Welcome, Withdrawn
from metisfl_async.core.repeats import Repeats
from metisfl_async.store.event_log import EventLog
from metisfl_async.transport.concurrency import LATE_S

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)


class Dispatcher:
    """The hands of a `Federation`. Nothing here waits, so decisions and their consequences keep one order."""

    def __init__(
        self,
        federation: Federation,
        registry: Registry,
        events: EventLog,
        over: asyncio.Event,
        *,
        clock: Callable[[], float],
        in_rounds: bool,
        best_metric: str | None = None,
    ) -> None:
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  #: fails with the first bug
        self._federation, self._registry, self._events, self._clock = federation, registry, events, clock
        self._over = over
        self._in_rounds, self._best_metric, self._failures = in_rounds, best_metric, Repeats()
        self._timers: dict[TimerName, asyncio.TimerHandle] = {}
        self._aggregator: Aggregator  # both are told by `connect`, since they post here
        self._updates: Updates
        self._keeper: Keeper

    def connect(self, aggregator: Aggregator, updates: Updates, keeper: Keeper) -> None:
        """Say who folds, who receives, and who keeps."""
        self._aggregator, self._updates, self._keeper = aggregator, updates, keeper

    def post(self, happened: Input) -> None:
        """Tell the federation what has happened, and carry out what it says; a bug in either ends the controller."""
        try:
            self._act(self._federation.handle(happened, self._clock()))
        except MetisError:
            raise  # the caller passed something wrong; nothing was decided
        except Exception as bug:
            self.fail(bug)
            raise

    def fail(self, bug: Exception) -> None:
        """End the controller with a bug."""
        if not self.broken.done():
            self.broken.set_exception(bug)

    def _act(self, commands: list[Command]) -> None:
        """Carry out commands in order."""
        for command in commands:
            match command:
                case Greet(learner, verdicts):
                    self._send(learner, Welcome(verdicts))
                case Offer(learner, task):
                    self._send(learner, task)
                case Count(learner, task_id):
                    self._send(learner, Counted((task_id,)))
                case Withdraw(learner, task_id, reason):
                    self._send(learner, Withdrawn(task_id, reason))
                case Receive() | Abandon() | Fold() | Answer():
                    self._updates.act(command)
                case StartTimer(name, seconds):
                    self._stop_timer(name)
                    if not self._events.is_closed:  # a call under way while we close; nobody would stop the timer
                        self._start_timer(name, seconds)
                case StopTimer(name):
                    self._stop_timer(name)
                case Aggregate() | Save() | Forget() | Discard():
                    self._aggregator.submit(command)
                case KeepBest():
                    self._aggregator.keep_best()
                case Announce(event):
                    self.announce(event)
                case Finish():
                    self._events.close()
                    self._over.set()
                case _:
                    assert_never(command)

    def announce(self, event: Event) -> None:
        """Let the watchers know."""
        self._log(event)
        self._events.append(event)
        if isinstance(event, RoundFinished):
            self._keeper.close_round(event.record)

    def close(self) -> None:
        """Stop the timers and let the watchers end."""
        for name in tuple(self._timers):
            self._stop_timer(name)
        self._events.close()
        self.broken.cancel()

    def _send(self, learner: LearnerId, message: ControllerMessage) -> None:
        member = self._registry.get(learner)
        if member is not None and member.connection is not None:
            member.connection.send(message)

    def _start_timer(self, name: TimerName, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time() + seconds
        self._timers[name] = loop.call_later(seconds, self._timer_fired, name, due_at)

    def _timer_fired(self, name: TimerName, due_at: float) -> None:
        if asyncio.get_running_loop().time() - due_at > LATE_S:  # the loop stood still: read the sockets first
            self._start_timer(name, LATE_S)
            return
        del self._timers[name]
        self.post(TimerFired(name))

    def _stop_timer(self, name: TimerName) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _log(self, event: Event) -> None:
        """Log what happened; where there are no rounds, models and failures come by the thousand."""
        level, unit = (logging.INFO, "round") if self._in_rounds else (logging.DEBUG, "model")
        match event:
            case LearnerJoined(learner, connected):
                logger.log(_level_of(connected), "%s joined; %d connected", learner, connected)
            case LearnerLeft(learner, connected, reason):
                logger.log(_level_of(connected), "%s left (%s); %d connected", learner, reason, connected)
            case FederationResumed(_, published):
                logger.info("goes on with what was saved; models so far: %d", published)
            case FirstWeights(source):
                logger.info("the first weights: %s", source)
            case RoundStarted(number, version, cohort):
                train = "1 learner trains" if len(cohort) == 1 else f"{len(cohort)} learners train"
                logger.log(level, "%s %d: %s model version %d", unit, number, train, version)
            case RoundFinished(record):
                logger.log(level, "%s %d: %s", unit, record.number, record.summary())
                metric, measured = self._best_metric, record.scores()
                if metric and measured and metric not in measured and self._failures.count(metric):
                    names = ", ".join(measured)
                    logger.warning("no model is the best by best_metric %r, which nobody measures: %s", metric, names)
            case TaskFailed(number, learner, task, kind, message) if kind != "cancelled":
                alike = (number, task, kind, message) if self._in_rounds else (learner, task, kind)
                level = logging.INFO if self._failures.count(alike) else logging.DEBUG
                logger.log(level, "%s %d: %s of %s failed: %s: %s", unit, number, task, learner, kind, message)
            case UpdateRepeated(number, learner, twin):
                times = 1 if self._in_rounds else self._failures.count((learner, twin, "repeated"))
                level = logging.INFO if times else logging.DEBUG
                what = "the global model as it was" if twin is None else f"the same as that of {twin}"
                logger.log(level, "%s %d: the update of %s is %s", unit, number, learner, what)
            case FederationFinished(reason, is_failure):
                logger.log(logging.ERROR if is_failure else logging.INFO, "finished: %s", reason)
            case _:
                logger.debug("%s", event)


def _level_of(connected: int) -> int:
    """Log the first hundred; of thousands, the 128th, 256th, 512th, ..."""
    return logging.INFO if connected <= 100 or connected & (connected - 1) == 0 else logging.DEBUG
