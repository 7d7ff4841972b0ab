"""Starts a federation at a controller, which may be started again at any moment."""

from __future__ import annotations

from collections.abc import Callable

from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Model
from metisfl_async.driver.following import WHO, Watch
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.retry import insisting

__all__ = ["start"]


async def start(
    link: ControllerLink, request: StartRequest, model: Model | None, may_be_started: Callable[[FederationId], None]
) -> None:
    """Give the controller the first weights, if there are any, and start."""
    federation_id = request.federation_id

    async def once() -> None:
        if model is not None and (await link.status()).federation_id != federation_id:
            await link.set_initial_model(federation_id, model)
        may_be_started(federation_id)  # from now on, whatever we hear of it
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
