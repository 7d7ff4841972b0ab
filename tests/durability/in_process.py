"""Learners that keep books, and controllers that die, for the tests of this directory."""

from __future__ import annotations

import asyncio

from federations import Adds

from metisfl_async import Controller
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

__all__ = ["Counts", "killed"]


class Counts(Adds):
    """Notes the first value of each model that it trains."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.trained: list[float] = []

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.trained.append(float(parameters[0][0]))
        return super().train(parameters, config)


async def killed(controller: Controller) -> None:
    """End a controller as SIGKILL does, as far as one process can: no farewell, and nothing is saved any more."""
    parts, controller._parts = controller._parts, None
    assert parts is not None
    parts.main.cancel()
    if parts.server is not None:
        await parts.server.stop(0)
    await parts.service.listeners.close()
    await asyncio.wait([parts.main])
    await parts.store.close()
