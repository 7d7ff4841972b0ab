"""Follows one federation at a controller, through any number of broken connections, and collects what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from metisfl_async.core.errors import ConnectionLost, NoModel, QuorumLost, StoreError, TransportError, UnexpectedMessage
from metisfl_async.core.federation.events import Event, EventsMissed, FederationFinished, FederationStarted
from metisfl_async.core.ids import FederationId
from metisfl_async.driver.result import FederationResult
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.retry import insisting

__all__ = ["WHO", "collect", "follow", "raise_failure"]

WHO = "the driver"
PAUSE_S = 0.1  #: before a broken connection is made again


async def follow(
    link: ControllerLink, federation_id: FederationId, on_event: Callable[[Event], None], lost_s: float | None
) -> FederationFinished:
    """Pass the events on until the last one.

    A connection that breaks is made again, also to a controller that was started again and goes on with the federation.

    Raises
    ------
    UnknownFederation
        If the controller runs another federation by now, or none.
    TransportError
        If it could not be reached for `lost_s` seconds, or closed before the federation was over.
    """
    seen, run_id = 0, ""

    async def to_the_end() -> FederationFinished | None:
        nonlocal seen, run_id
        async with aclosing(link.watch_events(federation_id, seen, run_id)) as events:
            async for event in events:
                if isinstance(event, FederationStarted):  # perhaps in a controller that was started again
                    seen, run_id = 0, event.run_id
                seen += event.count if isinstance(event, EventsMissed) else 1
                on_event(event)
                if isinstance(event, FederationFinished):
                    return event
        return None

    while True:
        try:
            if (finished := await to_the_end()) is not None:
                return finished
        except TransportError:
            await asyncio.sleep(PAUSE_S)
            await insisting(WHO, link.address, lost_s, link.status)
        else:
            raise ConnectionLost(link.address, "the controller closed before the federation was over")


def raise_failure(finished: FederationFinished) -> None:
    """Raise why a federation failed, if it did."""
    if finished.error_type == StoreError.__name__:
        where, _, why = finished.reason.partition(": ")
        raise StoreError(where, why)
    if finished.error_type == NoModel.__name__:
        raise NoModel(finished.reason)
    if finished.is_failure:
        raise QuorumLost(finished.reason)


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
        return FederationResult(model.arrays(), model.version, records, reason, first_weights)

    return await insisting(WHO, link.address, lost_s, once)
