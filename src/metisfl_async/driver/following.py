"""Follows one federation at a controller, through any number of broken connections, and collects what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

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
)
from metisfl_async.core.federation.events import Event, EventsMissed, FederationFinished, FederationStarted
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import StartRequest, Status
from metisfl_async.driver.result import FederationResult
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import first_of
from metisfl_async.transport.retry import insisting

__all__ = ["ENDING_S", "WHO", "check_same", "collect", "end", "follow", "raise_failure"]

logger = logging.getLogger(__name__)

WHO = "the driver"
PATIENCE_S = 10.0  #: with a controller that does not answer, before the connection is made anew
ENDING_S = 5.0  #: for telling a controller that the federation is over
PAUSE_S = 0.1  #: before a broken connection is made again


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
    patience_s = PATIENCE_S if lost_s is None else min(lost_s, PATIENCE_S)
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

    async def status() -> Status:
        try:
            async with asyncio.timeout(patience_s):
                return await link.status()
        except TimeoutError:
            raise PeerTimeout(link.address, f"it did not answer for {patience_s:g} s") from None

    async def come_back() -> Status:
        await link.renew()
        return await status()

    async def until_silent() -> None:
        """End with an error once the controller does not answer: it may be stopped, and its connection looks good."""
        while True:
            await asyncio.sleep(patience_s / 2)
            await status()

    while True:
        try:
            await first_of(to_the_end(), until_silent())
            if finished is not None:
                return finished
        except TransportError:
            await asyncio.sleep(PAUSE_S)
            await insisting(WHO, link.address, lost_s, come_back)
        else:
            raise ConnectionLost(link.address, "the controller closed before the federation was over")


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


async def end(link: ControllerLink, federation_id: FederationId, *, keep_running: bool = False) -> None:
    """Tell a controller that the result is here; it may have ended meanwhile, or died once more."""
    try:
        await insisting(WHO, link.address, ENDING_S, link.shut_down, federation_id, keep_running)
    except MetisError as error:
        logger.warning("%s was not told that the federation is over: %s", link.address, error)


async def collect(
    link: ControllerLink,
    federation_id: FederationId,
    reason: str,
    first_weights: str,
    lost_s: float | None,
) -> FederationResult:
    """Get the records of all rounds, and the latest model."""

    async def once() -> FederationResult:
        async with aclosing(link.get_logs(federation_id)) as logs:
            records = sorted([record async for record in logs], key=lambda record: record.number)
        try:
            model = await link.get_model(federation_id)
        except UnexpectedMessage:  # nobody ever gave the first weights
            return FederationResult(None, None, records, reason)
        names, untrained = model.manifest.names, [model.manifest.names[place] for place in model.manifest.untrained]
        return FederationResult(model.arrays(), model.version, records, reason, first_weights, names, untrained)

    return await insisting(WHO, link.address, lost_s, once)
