"""Follows one federation at a controller, through any number of broken connections, and collects what came of it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeVar

from metisfl_async.core.errors import (
    ConfigError,
    ConnectionLost,
    MetisError,
    NoModel,
    PeerTimeout,
    QuorumLost,
    StoreError,
    TransportError,
    UnexpectedMessage,
    UnknownFederation,
)
from metisfl_async.core.federation.events import Event, EventsMissed, FederationFinished, FederationStarted
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import StartRequest, Status
from metisfl_async.driver.reached import Reached
from metisfl_async.driver.result import FederationResult
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import first_of
from metisfl_async.transport.retry import insisting

__all__ = [
    "WHO",
    "Watch",
    "abandon",
    "check_same",
    "collect",
    "end",
    "follow",
    "interrupt",
    "raise_failure",
    "status_of",
    "stop",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

WHO = "the driver"
PATIENCE_S = 10.0  #: with a controller that does not answer, before the connection is made anew
SLOW_BYTES_PER_S = 2**17  #: what a slow link carries: 1 Mbit/s
ENDING_S = 5.0  #: for telling a controller that the federation is over
INTERRUPTED_S = 60.0  #: for stopping a federation in order when its run is cancelled
PAUSE_S = 0.1  #: before a broken connection is made again


class Watch:
    """Sees that a controller does not answer any more: it may be stopped, or forgotten on the way there.

    Its connection looks good then, for as long as TCP and gRPC are patient. Where so many bytes are sent to it, other
    requests may wait behind them.
    """

    def __init__(self, link: ControllerLink, lost_s: float | None, sent_bytes: int = 0) -> None:
        patience_s = PATIENCE_S + sent_bytes / SLOW_BYTES_PER_S
        self._link, self._patience_s = link, patience_s if lost_s is None else min(lost_s, patience_s)
        self._clock, self._heard_at = asyncio.get_running_loop().time, -math.inf
        self._used = link.connection

    def heard(self) -> None:
        """Take note of a sign of life: on a slow link, an answer to anything else waits behind a model."""
        self._heard_at = self._clock()

    async def until_silent(self) -> None:
        """End with an error once there is no answer."""
        while True:
            await asyncio.sleep(self._patience_s / 2)
            if self._clock() - self._heard_at > self._patience_s / 2:
                await self._status()

    async def over(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something over the connection. Where there is no answer, the next attempt has a new one."""
        self._used = self._link.connection
        task = asyncio.create_task(call())
        try:
            await first_of(task, self.until_silent())
        except TransportError:
            await self._renew()
            raise
        return task.result()

    async def come_back(self) -> None:
        """Make the connection anew."""
        await self._renew()
        await self._status()

    async def _renew(self) -> None:
        """Drop the connection that was used, but not the one that another watch has made meanwhile."""
        await self._link.renew(self._used)
        self._used = self._link.connection

    async def _status(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._link.status()
        except TimeoutError:
            raise PeerTimeout(self._link.address, f"it did not answer for {self._patience_s:g} s") from None


async def follow(
    link: ControllerLink, federation_id: FederationId, on_event: Callable[[Event], None], lost_s: float | None
) -> FederationFinished:
    """Pass the events on until the last one, each with its number in this run of the controller.

    A connection that breaks is made again, also to a controller that was started again and goes on with the federation.

    Raises
    ------
    UnknownFederation
        If the controller runs another federation by now, or none.
    TransportError
        If it could not be reached for `lost_s` seconds, or closed before the federation was over.
    """
    seen, run_id = 0, ""
    watch = Watch(link, lost_s)
    finished: FederationFinished | None = None

    async def to_the_end() -> None:
        nonlocal seen, run_id, finished
        async with aclosing(link.watch_events(federation_id, seen, run_id)) as events:
            async for event in events:
                if isinstance(event, FederationStarted):  # perhaps in a controller that was started again
                    seen, run_id = 0, event.run_id
                seen += event.count if isinstance(event, EventsMissed) else 1
                on_event(replace(event, serial=seen))
                if isinstance(event, FederationFinished):
                    finished = event
                    return

    while True:
        try:
            await first_of(to_the_end(), watch.until_silent())
            if finished is not None:
                return finished
        except TransportError:
            await asyncio.sleep(PAUSE_S)
            await insisting(WHO, link.address, lost_s, watch.come_back)
        else:
            raise ConnectionLost(link.address, "the controller closed before the federation was over")


async def status_of(link: ControllerLink, lost_s: float | None) -> Status:
    """Ask what runs at a controller; what is only being started is waited for: a crash would undo it."""

    async def settled() -> Status:
        status = await link.status()
        if status.federation_id and status.signals is None:
            raise ConnectionLost(link.address, f"federation {status.federation_id} is being started there")
        return status

    return await insisting(WHO, link.address, lost_s, settled)


def check_same(status: Status, request: StartRequest) -> None:
    """Refuse to go on with a federation otherwise than it was started.

    Raises
    ------
    ConfigError
        It says both.
    """
    signals = request.signals
    if status.signals is not None and status.signals != signals:
        allowed = f"those of the federation that goes on, {status.signals}; or DriverSession.attach, which needs none"
        raise ConfigError("termination_signals", signals, allowed)
    if status.evaluates != request.evaluates:
        allowed = "a function: each round of the federation that goes on waits for it" if status.evaluates else "None"
        raise ConfigError("evaluate", "a function" if request.evaluates else None, allowed)


def raise_failure(finished: FederationFinished) -> None:
    """Raise why a federation failed, if it did."""
    if finished.error_type == StoreError.__name__:
        where, _, why = finished.reason.partition(": ")
        raise StoreError(where, why)
    if finished.error_type == NoModel.__name__:
        raise NoModel(finished.reason)
    if finished.is_failure:
        raise QuorumLost(finished.reason)


async def stop(link: ControllerLink, federation_id: FederationId, reason: str, lost_s: float | None) -> None:
    """Ask a controller to end the federation in order, over a new connection where the one that is there is none."""
    watch = Watch(link, lost_s)
    await insisting(WHO, link.address, lost_s, watch.over, lambda: link.stop_training(federation_id, reason))


async def interrupt(link: ControllerLink, federation_id: FederationId, driving: asyncio.Task[Any]) -> None:
    """Stop a federation whose run is to be cancelled, and let it come to its end, if it can be told."""
    with suppress(MetisError, TimeoutError):
        async with asyncio.timeout(INTERRUPTED_S):
            await link.stop_training(federation_id, "the session was interrupted")
            await asyncio.wait([driving])


async def abandon(link: ControllerLink, federation_id: FederationId, *, keep_running: bool) -> None:
    """Tell a controller that its driver goes before the end, if it can be told."""
    with suppress(MetisError, TimeoutError):
        async with asyncio.timeout(ENDING_S):
            await link.shut_down(federation_id, keep_running)


async def end(link: ControllerLink, federation_id: FederationId, *, keep_running: bool = False) -> None:
    """Tell a controller that the result is here; it may have ended meanwhile, or died once more."""
    watch = Watch(link, None)

    async def tell() -> None:
        await insisting(WHO, link.address, ENDING_S, watch.over, lambda: link.shut_down(federation_id, keep_running))

    try:
        try:
            await tell()
        except PeerTimeout:  # over a connection that was forgotten
            await tell()
    except MetisError as error:
        logger.warning("%s was not told that the federation is over: %s", link.address, error)


async def collect(
    link: ControllerLink, federation_id: FederationId, reached: Reached, lost_s: float | None
) -> FederationResult:
    """Get the records of all rounds, the latest model, and the best one if one was kept; events told the rest."""
    watch = Watch(link, lost_s)

    async def get() -> FederationResult:
        records = []
        async with aclosing(link.get_logs(federation_id)) as logs:
            async for record in logs:
                watch.heard()
                records.append(record)
        records.sort(key=lambda record: record.number)
        try:
            model = await link.get_model(federation_id, watch.heard)
        except UnexpectedMessage:  # nobody ever gave the first weights
            return FederationResult(None, None, records, reached.reason, started_at=reached.started_at)
        status, parameters = await link.status(), model.arrays()
        if status.federation_id != federation_id:  # the controller was started again meanwhile
            raise UnknownFederation(federation_id, status.federation_id)
        best = status.best
        best_model = None if best is None else parameters
        if best is not None and best.model_version != model.version:
            best_model = (await link.get_model(federation_id, watch.heard, best=True)).arrays()
        names, untrained = model.manifest.names, [model.manifest.names[place] for place in model.manifest.untrained]
        facts = model.version, records, reached.reason, reached.first_weights
        return FederationResult(parameters, *facts, names, untrained, reached.started_at, best, best_model)

    return await insisting(WHO, link.address, lost_s, watch.over, get)
