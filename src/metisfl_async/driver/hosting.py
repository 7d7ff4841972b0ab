"""Opens what a session brings along: a live controller, unless it is open, and live learners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import ClientParams, ServerParams
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.federation.events import Event, FederationFinished
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import AskRequest
from metisfl_async.driver.asking import Answers, ask
from metisfl_async.driver.following import follow
from metisfl_async.driver.parties import link_to
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.stopping import Stopping
from metisfl_async.learner.threads import DaemonThreads
from metisfl_async.learner.worker import Worker, WorkerKind
from metisfl_async.simulation.engine import Engine
from metisfl_async.simulation.simulation import Simulation
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import first_of

__all__ = ["Hosting"]

MAX_THREADS = 32  #: for the live learners of one session; more learners take turns


class Hosting:
    """The parties of a session that run in this process, and the way to its controller."""

    def __init__(
        self,
        controller: Controller | ClientParams | ServerParams,
        learners: Mapping[str, Learner],
        worker: WorkerKind,
        stopping: Stopping,
        simulation: Simulation | None = None,
    ) -> None:
        self._controller, self._learners, self._simulation = controller, learners, simulation
        self._worker, self._stopping = worker, stopping
        self.new_link: Callable[[], ControllerLink] = partial(link_to, controller)
        self.owns_controller = False  #: whether the last `reach` opened it

    async def reach(self, stack: AsyncExitStack, *, resume: bool = False) -> ControllerLink:
        """Open a live controller that is not open, and make the link."""
        controller = self._controller
        self.owns_controller = isinstance(controller, Controller) and not controller.is_open
        if isinstance(controller, Controller) and self.owns_controller:
            by_itself = controller.resume
            controller.resume = by_itself or resume
            try:
                await stack.enter_async_context(controller)
            finally:
                controller.resume = by_itself
        link = self.new_link()
        stack.push_async_callback(link.close)
        return link

    async def ask(self, request: AskRequest, lost_s: float | None) -> Answers:
        """Ask while nothing runs: open all for as long as it takes."""
        async with AsyncExitStack() as stack:
            link = await self.reach(stack)
            clients = self.clients(stack)

            async def ask_and_leave() -> Answers:
                answers = await ask(link, request, lost_s)
                await asyncio.gather(*(client.leave() for client in clients))
                return answers

            asking = asyncio.create_task(ask_and_leave(), name="ask")
            await first_of(asking, *self.serving(), *(client.run() for client in clients))
            if asking.cancelled():
                raise ConnectionLost(link.address, "the controller ended before all learners had answered")
            return asking.result()
        raise AssertionError  # an AsyncExitStack of ours swallows nothing

    def serving(self, until: asyncio.Task[Any] | None = None) -> list[Coroutine[Any, Any, None]]:
        """Watch over a live controller, whose bug ends the session, and run simulated learners.

        One that serves on when the session is over is watched over until then.
        """
        controller, simulation = self._controller, self._simulation
        if not isinstance(controller, Controller):
            return []
        serving = controller.serve()
        if until is not None:
            serving = first_of(asyncio.shield(until), serving)
        if simulation is None:
            return [serving]
        return [serving, Engine(simulation, controller.crowd(), controller.controller_config).run()]

    async def follow(
        self, link: ControllerLink, federation_id: FederationId, on_event: Callable[[Event], None], lost_s: float | None
    ) -> FederationFinished:
        """Follow a federation to its end; a bug that ends a live controller is raised."""
        try:
            return await follow(link, federation_id, on_event, lost_s)
        except ConnectionLost:
            if isinstance(self._controller, Controller) and self._controller.is_open:
                await self._controller.serve()  # raises why, if it was a bug
            raise

    def clients(self, stack: AsyncExitStack) -> list[LearnerClient]:
        """Make the live learners ready to take part."""
        worker = self._worker
        if self._learners and worker == "thread":
            threads = min(len(self._learners), MAX_THREADS)
            worker = stack.enter_context(DaemonThreads(threads, "metisfl-learners"))
        clients, failures = [], FailureLog()
        for name, learner in self._learners.items():
            of_learner = Worker(learner, worker, name=name, stopping=self._stopping)
            link = self.new_link()
            stack.push_async_callback(link.close)
            clients.append(LearnerClient(link, of_learner, name, failures=failures))
        return clients
