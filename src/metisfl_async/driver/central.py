"""Evaluates each global model where the driver is, beside the learners that evaluate it where they are."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from metisfl_async.core.errors import UnknownFederation
from metisfl_async.core.federation.events import Event, FederationResumed, ModelPublished
from metisfl_async.core.federation.inputs import CentralEvaluation
from metisfl_async.core.ids import FederationId
from metisfl_async.core.metrics import Metrics, checked_metrics
from metisfl_async.core.model import Array
from metisfl_async.core.repeats import Repeats
from metisfl_async.driver.following import WHO
from metisfl_async.learner.outcome import text_of
from metisfl_async.learner.threads import DaemonThreads
from metisfl_async.learner.worker import finished
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import beside, call, first_of
from metisfl_async.transport.retry import insisting

__all__ = ["Central", "Evaluate"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Evaluate: TypeAlias = Callable[[list[Array], int], Metrics | Awaitable[Metrics | None] | None]
"""Gives metrics of the parameters, in the round of this number; an ``async def``, or a ``def``, which gets a thread."""

BEAT_S = 10.0  #: how often the controller hears that we are at it; it waits for six of those


class Central:
    """Calls the user's function, if there is one, for each global model; the round waits until that is done."""

    def __init__(self, evaluate: Evaluate | None, link: ControllerLink, lost_s: float | None) -> None:
        self._evaluate, self._link, self._lost_s = evaluate, link, lost_s
        self._due: asyncio.Queue[int] = asyncio.Queue()  # the numbers of rounds, of which the last one counts
        self._repeats = Repeats()

    def note(self, event: Event) -> None:
        """See whether there is a new global model."""
        match event:
            case ModelPublished(number) | FederationResumed(_, number) if number and self._evaluate is not None:
                self._due.put_nowait(number)

    async def beside(self, following: Coroutine[Any, Any, T], federation_id: FederationId) -> T:
        """Evaluate models while a federation is followed to its end."""
        task = asyncio.create_task(following, name="follow")
        await first_of(task, self._run(federation_id))
        return task.result()

    async def _run(self, federation_id: FederationId) -> None:
        """Evaluate one model after another, until cancelled."""
        threads = DaemonThreads(1, "metisfl-evaluation")
        try:
            while True:
                number = await self._due.get()
                while not self._due.empty():
                    number = self._due.get_nowait()
                try:
                    model = await insisting(WHO, self._link.address, self._lost_s, self._link.get_model, federation_id)
                    at_work = CentralEvaluation(model.version)
                    measuring = asyncio.create_task(self._measured(at_work, model.arrays(), number, threads))
                    report = await beside(measuring, self._beat(federation_id, at_work, measuring))
                    await self._tell(federation_id, report)
                except UnknownFederation as error:  # whoever follows it hears why
                    logger.debug("nobody waits for an evaluation: %s", error)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _measured(
        self, report: CentralEvaluation, parameters: list[Array], number: int, threads: DaemonThreads
    ) -> CentralEvaluation:
        """Call the function; what it raises becomes the report."""
        assert self._evaluate is not None
        try:
            if inspect.iscoroutinefunction(self._evaluate):
                metrics: Any = await finished(self._evaluate(parameters, number))
            else:
                loop = asyncio.get_running_loop()
                metrics = await loop.run_in_executor(threads, call, self._evaluate, parameters, number)
            return replace(report, metrics=checked_metrics({} if metrics is None else metrics, "what evaluate() gave"))
        except Exception as error:
            if self._repeats.count(type(error).__name__):
                logger.exception("the session's evaluate() failed in round %d", number)
            return replace(report, error_type=type(error).__name__, message=text_of(error))

    async def _beat(
        self, federation_id: FederationId, at_work: CentralEvaluation, measuring: asyncio.Task[Any]
    ) -> None:
        while not measuring.done():
            await asyncio.wait([measuring], timeout=BEAT_S)
            if not measuring.done():
                await self._tell(federation_id, at_work)

    async def _tell(self, federation_id: FederationId, report: CentralEvaluation) -> None:
        await insisting(WHO, self._link.address, self._lost_s, self._link.evaluated, federation_id, report)
