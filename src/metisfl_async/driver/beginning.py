"""Starts a federation at a controller, which may be started again at any moment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.ids import FederationId, new_federation_id
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Model
from metisfl_async.driver.following import WHO, Watch, check_same, status_of
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.retry import insisting

__all__ = ["begin"]

logger = logging.getLogger(__name__)


async def begin(
    link: ControllerLink,
    request: StartRequest,
    model: Model | None,
    named: Callable[[FederationId], None],
    *,
    resume: bool,
) -> None:
    """Find the federation that goes on, or start one; `named` is told which, before it may have begun."""
    if resume:
        status = await status_of(link, request.join_timeout_secs)
        if status.federation_id:
            check_same(status, request)
            logger.info("federation %s goes on at %s", status.federation_id, link.address)
            named(status.federation_id)
            return
    await _start(link, replace(request, federation_id=new_federation_id(), has_model=model is not None), model, named)


async def _start(
    link: ControllerLink, request: StartRequest, model: Model | None, named: Callable[[FederationId], None]
) -> None:
    """Give the controller the first weights, if there are any, and start."""
    federation_id = request.federation_id

    async def once() -> None:
        if model is not None and (await link.status()).federation_id != federation_id:
            await link.set_initial_model(federation_id, model)
        named(federation_id)  # from now on, whatever we hear of it
        try:
            await link.start_training(request)
        except UnexpectedMessage:  # the controller may have been started again between the two
            if model is None:
                raise
            await link.set_initial_model(federation_id, model)
            await link.start_training(request)

    timeout_s = request.join_timeout_secs
    watch = Watch(link, timeout_s, 0 if model is None else model.manifest.size_bytes)
    await insisting(WHO, link.address, timeout_s, watch.over, once)
