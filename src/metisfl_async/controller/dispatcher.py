"""Carries out what the core decides: sends tasks, keeps timers, feeds the aggregator, tells the watchers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import ParamSpec, assert_never

from metisfl_async.controller.aggregator import Aggregator
from metisfl_async.controller.registry import Registry
from metisfl_async.core.errors import MetisError
from metisfl_async.core.federation.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Forget,
    Offer,
    StartTimer,
    StopTimer,
    Withdraw,
)
from metisfl_async.core.federation.events import (
    Event,
    FederationFinished,
    LearnerJoined,
    LearnerLeft,
    RoundFinished,
    RoundStarted,
    TaskFailed,
)
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.messages import ControllerMessage, TaskOffer, Withdrawn
from metisfl_async.core.repeats import Repeats
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.store.base import ModelStore
from metisfl_async.store.event_log import EventLog

__all__ = ["Dispatcher"]

P = ParamSpec("P")

logger = logging.getLogger(__name__)


class Dispatcher:
    """The hands of a `Federation`. Nothing here waits, so decisions and their consequences keep one order."""

    def __init__(
        self,
        federation: Federation,
        registry: Registry,
        rule: AggregationRule,
        store: ModelStore,
        *,
        keeps_updates: bool,
        in_rounds: bool,
    ) -> None:
        self.events = EventLog()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()  #: fails with the first bug
        self.aggregator = Aggregator(federation, rule, store, self.post, keeps_updates=keeps_updates)
        self._federation, self._registry = federation, registry
        self._in_rounds, self._failures = in_rounds, Repeats()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._on_timer: dict[str, Callable[[], list[Command]]] = {
            "gather": federation.gather_timed_out,
            "phase": federation.phase_timed_out,
            "cutoff": federation.cutoff_passed,
        }

    def post(self, decide: Callable[P, list[Command]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let the federation decide, and carry out what it says; a bug in either ends the controller."""
        try:
            self.act(decide(*args, **kwargs))
        except MetisError:
            raise  # the caller passed something wrong; nothing was decided
        except Exception as bug:
            self.fail(bug)
            raise

    def fail(self, bug: Exception) -> None:
        """End the controller with a bug."""
        if not self.broken.done():
            self.broken.set_exception(bug)

    def act(self, commands: list[Command]) -> None:
        """Carry out commands in order."""
        for command in commands:
            match command:
                case Offer(task):
                    offer = TaskOffer(task.id, task.kind, task.round_number, task.model_version, task.config)
                    self._send(task.learner, offer)
                case Withdraw(task):
                    self._send(task.learner, Withdrawn(task.id, task.reason))
                case StartTimer(name, seconds):
                    self._stop_timer(name)
                    if not self.events.is_closed:  # a call under way while we close; nobody would stop the timer
                        self._timers[name] = asyncio.get_running_loop().call_later(seconds, self._timer_fired, name)
                case StopTimer(name):
                    self._stop_timer(name)
                case Aggregate() | Forget() | Discard():
                    self.aggregator.submit(command)
                case Announce(event):
                    self._log(event)
                    self.events.append(event)
                case Finish():
                    self.events.close()
                case _:
                    assert_never(command)

    def close(self) -> None:
        """Stop the timers and let the watchers end."""
        for name in tuple(self._timers):
            self._stop_timer(name)
        self.events.close()
        self.broken.cancel()

    def _send(self, learner: LearnerId, message: ControllerMessage) -> None:
        member = self._registry.get(learner)
        if member is not None and member.connection is not None:
            member.connection.send(message)

    def _timer_fired(self, name: str) -> None:
        del self._timers[name]
        self.post(self._on_timer[name])

    def _stop_timer(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _log(self, event: Event) -> None:
        """Log what happened; where there are no rounds, models and failures come by the thousand."""
        level, unit = (logging.INFO, "round") if self._in_rounds else (logging.DEBUG, "model")
        match event:
            case LearnerJoined(learner, connected):
                logger.info("%s joined; %d connected", learner, connected)
            case LearnerLeft(learner, connected, reason):
                logger.info("%s left (%s); %d connected", learner, reason, connected)
            case RoundStarted(number, version, cohort):
                logger.log(level, "%s %d: %d learners train model version %d", unit, number, len(cohort), version)
            case RoundFinished(record):
                logger.log(level, "%s %d: %s", unit, record.number, record.summary())
            case TaskFailed(number, learner, task, kind, message) if kind != "cancelled":
                times = 1 if self._in_rounds else self._failures.count((learner, task, kind))
                level = logging.INFO if times else logging.DEBUG
                logger.log(level, "%s %d: %s of %s failed: %s: %s", unit, number, task, learner, kind, message)
            case FederationFinished(reason, is_failure):
                logger.log(logging.ERROR if is_failure else logging.INFO, "finished: %s", reason)
            case _:
                logger.debug("%s", event)
