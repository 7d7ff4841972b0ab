"""Watchers see everything, and change nothing: one that fails, blocks or never ends is logged, and left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, session_of, until

from metisfl_async import (
    ConfigError,
    Controller,
    DriverSession,
    ServerParams,
    TerminationSignals,
    TransportError,
    run_learner,
)
from metisfl_async.driver.watching import Watched
from metisfl_async.events import Event, FederationFinished, FederationStarted, RoundFinished

ENDS = TerminationSignals(federation_rounds=3)


class Notes:
    """Takes note of what it sees, and of the result at the end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reason = ""

    async def __call__(self, session: Watched) -> None:
        async for event in session.events():
            self.events.append(event)
        assert session.result is not None
        self.reason = session.result.reason


@pytest.mark.parametrize("over_grpc", [False, True], ids=["in memory", "over gRPC"])
async def test_watchers_see_all_events_and_then_the_result(over_grpc: bool) -> None:
    one, other = Notes(), Notes()
    async with nothing_left_behind():
        session = session_of([Adds(1), Adds(2)], over_grpc=over_grpc)
        result = await session.run(watch=[one, other])
    assert isinstance(one.events[0], FederationStarted)
    assert isinstance(one.events[-1], FederationFinished)
    assert [event.record for event in one.events if isinstance(event, RoundFinished)] == result.rounds
    assert one.events == other.events
    assert one.reason == other.reason == result.reason


async def test_who_attaches_may_watch_too() -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        dial, notes = controller.client_params, [Notes(), Notes()]
        taking_part = asyncio.create_task(run_learner(Adds(1), dial))
        first = DriverSession(dial, 1, ENDS, keep_running=True)
        await first.run(watch=notes[:1])
        await DriverSession.attach(dial).run(watch=notes[1:], shut_down=True)
        await taking_part
    assert notes[1].reason == "federation_rounds=3 reached"
    assert notes[0].events == notes[1].events


async def test_a_run_that_fails_does_not_have_the_result_of_the_one_before() -> None:
    async with Controller(ServerParams()) as controller:
        dial = controller.client_params
        taking_part = asyncio.create_task(run_learner(Adds(1), dial))
        await DriverSession(dial, 1, ENDS, keep_running=True).run()
        attached = DriverSession.attach(dial, lost_secs=0.1)
        await attached.run(shut_down=True)
        assert attached.result is not None
        await taking_part
    with pytest.raises(TransportError):
        await attached.run()
    assert attached.result is None


async def raises(session: Watched) -> None:
    await anext(session.events())
    raise OSError("disk full")


async def exits(session: Watched) -> None:
    await anext(session.events())
    raise SystemExit(3)


async def cancels_itself(session: Watched) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("watcher", [raises, exits, cancels_itself])
async def test_one_that_fails_is_logged_once_and_the_others_go_on(
    watcher: Callable[[Watched], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    result = await session_of([Adds(1)]).run(watch=[watcher, notes])
    assert result.reason == notes.reason == "federation_rounds=3 reached"
    (told,) = [record for record in caplog.records if record.name.endswith("watching")]
    assert told.getMessage() == f"{watcher.__name__} failed, and watches no longer; the federation goes on"
    assert told.exc_info is not None


async def never_ends(session: Watched) -> None:
    await asyncio.Event().wait()


async def ignores_its_cancellation(session: Watched) -> None:
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE_S)


@pytest.mark.parametrize("watcher", [never_ends, ignores_its_cancellation])
async def test_one_that_does_not_end_is_given_up(
    watcher: Callable[[Watched], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metisfl_async.driver.watching.CLOSED_S", 0.05)
    session = DriverSession(Controller(), [Adds(1)], ENDS, stop_timeout_secs=0.05)
    result = await session.run(watch=[watcher])
    assert result.reason == "federation_rounds=3 reached"
    (told,) = [record.getMessage() for record in caplog.records if record.name.endswith("watching")]
    assert told == f"not waiting any longer for watch-{watcher.__name__}, within 0.05 s"
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_a_slow_one_delays_nobody_and_sees_everything_that_is_kept() -> None:
    notes, may_go_on = Notes(), asyncio.Event()

    async def slow(session: Watched) -> None:
        stream = session.events()
        await anext(stream)
        await may_go_on.wait()
        while events := await stream.batch():
            notes.events += events

    quick = Notes()
    running = asyncio.create_task(session_of([Adds(1)], rounds=50).run(watch=[slow, quick]))
    await until(lambda: quick.reason != "")  # it has seen the end, while the other stands at the beginning
    may_go_on.set()
    await running
    assert notes.events == quick.events[1:]


async def test_cancelled_watchers_see_the_end_in_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    notes, learner = Notes(), AddsOnLoop(1)
    async with nothing_left_behind():
        running = asyncio.create_task(session_of([learner], rounds=1_000_000).run(watch=[notes]))
        await learner.is_training.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert isinstance(notes.events[-1], FederationFinished)
    assert notes.reason == "the session was interrupted"
    assert not caplog.records


async def test_cancelled_once_more_they_are_not_waited_for() -> None:
    has_ended, watching = asyncio.Event(), asyncio.Event()

    async def waits(session: Watched) -> None:
        async for _ in session.events():
            pass
        has_ended.set()
        try:
            await asyncio.Event().wait()
        finally:
            watching.set()

    async with nothing_left_behind():
        running = asyncio.create_task(session_of([Adds(1)]).run(watch=[waits]))
        await has_ended.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert watching.is_set()


def is_no_coroutine(session: Watched) -> None:
    raise AssertionError


class IsNoCoroutine:
    def __call__(self, session: Watched) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("watch", "message"),
    [
        ([is_no_coroutine], "watch is <function is_no_coroutine.*>; allowed: trackers, and async functions"),
        ([partial(is_no_coroutine)], "watch is functools.partial.*; allowed: trackers, and async functions"),
        ([IsNoCoroutine()], "watch is <.*IsNoCoroutine object.*>; allowed: trackers, and async functions"),
        (["run.jsonl"], "watch is 'run.jsonl'; allowed: trackers, and async functions"),
        ([Notes], "watch is <class .*Notes'>; allowed: trackers, and async functions"),
        (Notes(), "watch is <.*Notes object.*>; allowed: a list of trackers, and async functions"),
        ("run.jsonl", "watch is 'run.jsonl'; allowed: a list of trackers, and async functions"),
    ],
)
def test_what_cannot_watch_is_refused(watch: Any, message: str) -> None:
    session = session_of([Adds(1)])
    with pytest.raises(ConfigError, match=message):
        session.run_sync(watch=watch)


def test_a_partial_of_a_watcher_watches() -> None:
    notes = Notes()

    async def watch(notes: Notes, session: Watched) -> None:
        await notes(session)

    session_of([Adds(1)]).run_sync(watch=[partial(watch, notes), notes.__call__])
    assert notes.reason == "federation_rounds=3 reached"


def test_run_sync_has_watchers_too() -> None:
    notes = Notes()
    session_of([Adds(1)]).run_sync(watch=[notes])
    assert notes.reason == "federation_rounds=3 reached"
