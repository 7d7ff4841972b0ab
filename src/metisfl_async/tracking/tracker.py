"""What trackers have in common: each does its work in a thread of its own, in order, and never holds up the loop."""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.events import Event, RoundFinished
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.watching import Watched
from metisfl_async.learner.threads import DaemonThreads
from metisfl_async.transport.concurrency import call

__all__ = ["RoundTracker", "Tracker", "package", "save_all"]

PAUSE_S = 0.05  #: between two calls of `take`: waking a thread for each event would cost more than the event


class Tracker(ABC):
    """A watcher whose methods may block: they are called in a thread, one after another.

    Subclass it for a tracker of your own, and give it to ``session.run(watch=[...])``.
    """

    def open(self) -> None:  # noqa: B027 - some have nothing to do
        """Begin: a run's first event is there."""

    @abstractmethod
    def take(self, events: Sequence[Event]) -> None:
        """Take the next events of the run; where they come fast or this is slow, 256 at a time."""

    def close(self, result: FederationResult | None) -> None:  # noqa: B027
        """End: the run is over, or something else failed here."""

    async def __call__(self, session: Watched) -> None:
        """Watch a session."""
        threads = DaemonThreads(1, "metisfl-tracker")

        async def in_thread(method: Callable[..., None], *args: object) -> None:
            await asyncio.get_running_loop().run_in_executor(threads, call, method, *args)

        try:
            stream = session.events()
            if not (events := await stream.batch()):
                return
            await in_thread(self.open)
            try:
                while events:
                    await in_thread(self.take, events)
                    await asyncio.sleep(PAUSE_S)
                    events = await stream.batch()
            except Exception:
                await in_thread(self.close, session.result)
                raise
            await in_thread(self.close, session.result)
        finally:
            threads.shutdown(wait=False)


class RoundTracker(Tracker):
    """A tracker of the rounds that made a model; without rounds, of the models."""

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, RoundFinished) and event.record.is_published:
                self.note(event.record)

    @abstractmethod
    def note(self, record: RoundRecord) -> None:
        """Take one round's record; its step is `record.number`."""


def save_all(result: FederationResult, directory: str) -> None:
    """Write what is worth keeping of a result into a directory."""
    result.save(Path(directory) / "results.json")
    if result.final_model is not None:
        result.save_model(Path(directory) / "model.safetensors")


def package(module: str, tracker: str, name: str) -> Any:
    """Import what a tracker needs, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(module, None, f"a package that is installed, for {tracker}: pip install {name}") from error
