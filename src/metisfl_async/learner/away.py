"""Calls of a learner's methods away from the event loop: in a thread, in a process of its own, in the user's pool."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from metisfl_async.core.errors import ConfigError
from metisfl_async.learner import calls
from metisfl_async.learner.elsewhere import Raised
from metisfl_async.learner.forks import end_with_ours
from metisfl_async.learner.learner import Learner
from metisfl_async.transport.concurrency import call

__all__ = [
    "call_away",
    "call_elsewhere",
    "call_in_process",
    "check_stateless",
    "keep_learner",
    "returned",
    "users_part",
]

T = TypeVar("T")

CALLERS = (__name__, calls.__name__, "metisfl_async.learner.worker")  #: the modules that call a learner's methods


def users_part(trace: TracebackType | None, caller: str = "") -> TracebackType | None:
    """Cut a traceback to what lies below the modules that call a learner: the user's code, as a rule."""
    users = trace
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") in (*CALLERS, caller) and trace.tb_next is not None:
            users = trace.tb_next
        trace = trace.tb_next
    return users


def call_away(function: Callable[..., T], *args: object) -> T | Raised:
    """Call where the result may have to be pickled: an error that cannot be would break a pool of processes."""
    try:
        return call(function, *args)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return Raised.of(error, users_part(error.__traceback__))


def call_elsewhere(home: int, function: Callable[..., T], learner: Learner, *args: object) -> T | Raised:
    """Call in the user's executor, which may be in other processes; what the copy there remembers is lost."""
    if os.getpid() != home:
        try:
            check_stateless(learner)
        except ConfigError as error:
            return Raised.of(error, None)
    return call_away(function, learner, *args)


def check_stateless(learner: Learner) -> None:
    if learner.keeps_state:
        allowed = (
            "'process', where the learner stays: here it gets a new copy for each task, and what it remembers (an "
            "optimizer's momentum, a count) would be lost. A learner that needs nothing of it sets keeps_state = False"
        )
        raise ConfigError("worker", "a pool of processes", allowed)


def returned(result: T | Raised) -> T:
    if isinstance(result, Raised):
        raise result.error()
    return result


_kept: list[Learner] = []  # in a spawned process: its learner


def keep_learner(learner: Learner) -> None:
    # Ctrl-C in a terminal reaches this process too; it is ours, and we end it when the federation has heard of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_ours()
    learner.owns_process = True
    _kept[:] = [learner]


def call_in_process(facts: tuple[int | None, str], function: Callable[..., T], *args: object) -> T | Raised:
    _kept[0].task_seed, _kept[0].traceparent = facts
    return call_away(function, _kept[0], *args)
