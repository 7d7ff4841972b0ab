"""Asynchronous generators are closed where they are used: what the garbage collector ends may have no loop any more."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from federations import Adds, session_of
from puppet import FEDERATION, puppet, weights

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.core.errors import MetisError
from metisfl_async.core.model import Model

pytestmark = pytest.mark.slow


@contextmanager
def none_left_to_the_collector() -> Iterator[None]:
    """Check that no generator of ours is finalised before it has ended or was closed."""
    before, left = sys.get_asyncgen_hooks(), []

    def note(generator: AsyncGenerator[Any, Any]) -> None:
        if "metisfl_async" in generator.ag_code.co_filename:  # type: ignore[attr-defined]
            left.append(generator.ag_code.co_qualname)  # type: ignore[attr-defined]
        if before.finalizer is not None:
            before.finalizer(generator)

    sys.set_asyncgen_hooks(firstiter=before.firstiter, finalizer=note)
    try:
        yield
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*before)
    assert left == []


@pytest.mark.parametrize("size", [1, 2**20], ids=["small", "large"])
async def test_none_is_left_of_a_federation_that_is_cancelled_anywhere(size: int) -> None:
    with none_left_to_the_collector():
        for seen in range(1, 15):
            session = session_of([Adds(1, size), Adds(2, size)], 10**6, over_grpc=True)
            running = asyncio.create_task(session.run())
            events = session.events()
            for _ in range(seen):
                await anext(events)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_none_is_left_of_a_federation_that_ends() -> None:
    with none_left_to_the_collector():
        await session_of([Adds(1)], 2, over_grpc=True).run()


async def test_none_is_left_of_models_that_are_refused() -> None:
    with none_left_to_the_collector():
        async with Controller(ServerParams(), ControllerConfig(max_model_bytes=1000)) as controller:
            link = controller.connect()
            with pytest.raises(MetisError):
                await link.set_initial_model(FEDERATION, Model.from_arrays(weights(0, 2**22)))
            await link.close()
        async with Controller(ServerParams(), ControllerConfig(max_model_bytes=1000)) as controller:
            signals = TerminationSignals(federation_rounds=1)
            running = asyncio.create_task(DriverSession(controller, 1, signals, initial_weights=weights(0)).run())
            async with puppet(controller, "a") as a:
                offer = await a.task()
                assert not (await a.push(a.frames(offer, weights(0, 2**22)))).is_counted
            running.cancel()
            await asyncio.wait([running])
