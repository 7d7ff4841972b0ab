"""Learners that go on although they are told to end."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from federations import Adds

from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult


class Stuck(Adds):
    """Trains until it may end, whether it is cancelled or not."""

    def __init__(self, number: int = 1) -> None:
        super().__init__(number)
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.at_once = self.most_at_once = 0

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.has_begun.set()
        self.may_end.wait()
        self.at_once -= 1
        return super().train(parameters, config)


class StuckOnLoop(Adds):
    """The same as a coroutine."""

    def __init__(self) -> None:
        super().__init__(1)
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        self.has_begun.set()
        while not self.may_end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return super().train(parameters, config)


class NeverEnds(Adds):
    """Trains for ever."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        threading.Event().wait()
        raise AssertionError
