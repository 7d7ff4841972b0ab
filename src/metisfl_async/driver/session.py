"""Starts a federation, watches it, and ends it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import ClientParams, ServerParams, TerminationSignals, named_learners
from metisfl_async.core.errors import (
    ConfigError,
    ConnectionLost,
    MetisError,
    QuorumLost,
    TransportError,
    UnexpectedMessage,
)
from metisfl_async.core.federation.events import Event, EventsMissed, FederationFinished, RoundFinished
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import FederationId, new_federation_id
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Array
from metisfl_async.core.repeats import Repeats
from metisfl_async.driver.progress import ProgressDisplay
from metisfl_async.driver.result import FederationResult
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.outcome import packed_weights
from metisfl_async.learner.worker import Worker, WorkerKind
from metisfl_async.store.event_log import EventLog
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import beside
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.retry import insisting

__all__ = ["DriverSession"]

logger = logging.getLogger(__name__)

_LEARNERS = (Learner, ServerParams, ClientParams)
MAX_THREADS = 32  #: for the live learners of one session; more learners take turns
PAUSE_S = 0.1  #: before a broken connection is made again
LOST_S = 60.0  #: how long a remote controller may be out of reach before the driver gives up
ENDING_S = 5.0  #: for telling a remote controller that a cancelled driver wants the end


class DriverSession:
    """One federation, from its start to its result.

    ::

        session = DriverSession(controller, learners, TerminationSignals(federation_rounds=5))
        result = asyncio.run(session.run())  # or `await session.run()` where a loop runs already

    Parameters
    ----------
    controller : Controller, ClientParams or ServerParams
        A live controller, which the session opens unless it is open, and closes if it opened it; or the address of a
        remote one.
    learners : sequence of Learner, ServerParams or ClientParams, mapping of str to Learner, or int
        Live learners, which then run in this process under the names "learner-0", "learner-1", ..., or under those of
        the mapping; the addresses of remote ones that listen, which the controller then dials; or how many remote ones
        to wait for. Live learners reach a live controller in memory if it has no `server_params`, else over its port.
    termination_signals : TerminationSignals
        When it ends.
    initial_weights : sequence of ndarray, optional
        Where training starts. Without them, one learner is asked for its weights.
    seed : int
        Draws the learner that gives the first weights, and the cohorts: the same ones in each run.
    join_timeout_secs : float, optional
        How long to wait for the controller and the learners; without it, for ever.
    worker : {"thread", "process"} or concurrent.futures.Executor
        Where the methods of live learners run; see `run_learner`. Threads are shared: 32 at most.
    """

    def __init__(
        self,
        controller: Controller | ClientParams | ServerParams,
        learners: Sequence[Learner | ServerParams | ClientParams] | Mapping[str, Learner] | int,
        termination_signals: TerminationSignals,
        *,
        initial_weights: Sequence[Array] | None = None,
        seed: int = 1990,
        join_timeout_secs: float | None = None,
        worker: WorkerKind = "thread",
    ) -> None:
        if not isinstance(controller, Controller | ClientParams | ServerParams):
            raise ConfigError("controller", controller, "a Controller, or the ClientParams or ServerParams of one")
        names: list[str] = []
        if isinstance(learners, Mapping):
            if not all(isinstance(name, str) and name and isinstance(x, Learner) for name, x in learners.items()):
                raise ConfigError("learners", learners, "ids that are not empty, each with a live Learner object")
            names, learners = list(learners), list(learners.values())
        if isinstance(learners, int):
            if isinstance(learners, bool) or learners < 1:
                raise ConfigError("learners", learners, "at least 1")
        elif not isinstance(learners, Sequence) or not learners or not all(isinstance(x, _LEARNERS) for x in learners):
            allowed = (
                "a list of live Learner objects, or of the ServerParams of remote ones, or the number of remote ones"
            )
            raise ConfigError("learners", learners, allowed)
        live = [] if isinstance(learners, int) else [x for x in learners if isinstance(x, Learner)]
        named = () if isinstance(learners, int) else [x for x in learners if not isinstance(x, Learner)]
        if len(set(map(id, live))) < len(live):
            raise ConfigError("learners", learners, "a list in which no Learner object stands twice")
        if not isinstance(termination_signals, TerminationSignals):
            raise ConfigError("termination_signals", termination_signals, "a TerminationSignals")
        if isinstance(controller, Controller):
            termination_signals.check(in_rounds=controller.controller_config.new_scheduler().in_rounds)
        if isinstance(controller, Controller) and controller.server_params is None:
            if isinstance(learners, int) or named:
                allowed = "live Learner objects; to wait for others, give the controller server_params"
                raise ConfigError("learners", learners, allowed)
            least = controller.controller_config.min_learners
            if least > len(learners):
                allowed = f"at most the {len(learners)} learners of this session: the controller has no port for others"
                raise ConfigError("min_learners", least, allowed)
        if join_timeout_secs is not None and not join_timeout_secs > 0:
            raise ConfigError("join_timeout_secs", join_timeout_secs, "a number > 0, or None")
        self._controller = controller
        self._learners = live
        self._names = names or [f"learner-{index}" for index in range(len(live))]
        self._request = StartRequest(
            termination_signals,
            learners if isinstance(learners, int) else len(learners),
            seed,
            join_timeout_secs,
            FederationId(""),
            named_learners("learners", named),
        )
        self._initial_model = (
            packed_weights(initial_weights, "initial_weights") if initial_weights is not None else None
        )
        self._worker: WorkerKind = worker
        self._log, self._repeats = EventLog(), Repeats()
        self._link: ControllerLink | None = None  # while running
        self._owns_controller = False
        self.result: FederationResult | None = None  #: of the last run, also when it failed

    async def run(self, *, progress: bool = False) -> FederationResult:
        """Run the federation until a termination signal is reached, or `stop` is called.

        Cancelling it ends everything that it started; a controller that was there before is told to end too.

        Parameters
        ----------
        progress : bool
            Show a live display in a terminal or notebook; elsewhere, log a line a round; without rounds, now and then.

        Raises
        ------
        QuorumLost
            If too few learners came, stayed or delivered. `result` holds what was reached.
        TransportError
            If a remote controller cannot be reached.
        """
        if self._link is not None:
            raise UnexpectedMessage("the session is running already")
        if self._log.is_closed:
            self._log = EventLog()
        self.result = None
        try:
            async with AsyncExitStack() as stack:
                await self._reach(stack)
                display = None
                if progress:
                    signals, num_learners = self._request.signals, self._request.num_learners
                    display = stack.enter_context(ProgressDisplay(signals, num_learners))
                learners = self._live_learners(stack)
                return await beside(self._drive(display), *self._serving(), *(learner.run() for learner in learners))
        finally:
            self._link = None
            self._log.close()

    def run_sync(self, *, progress: bool = False) -> FederationResult:
        """Do `run` and block, whether or not an event loop runs in this thread.

        ``asyncio.run(session.run())`` raises Python's own error in a notebook cell; this works there too: it uses a
        fresh loop, in a thread of its own where this thread's loop is running.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _run(self.run(progress=progress))
        if isinstance(self._controller, Controller) and self._controller.is_open:
            raise ConfigError("controller", "open", "one that is not open: it belongs to the loop of this thread")
        return _run_in_thread(self.run(progress=progress))

    def events(self) -> AsyncIterator[Event]:
        """Follow the current or coming run: all its events so far, then each as it happens, until it ends."""
        return self._log.follow()

    async def stop(self, reason: str = "stop was asked for") -> None:
        """End the running federation in order: `run` returns what was reached."""
        if self._link is None:
            raise UnexpectedMessage("the session is not running")
        await self._link.stop_training(reason)

    # --- the parts -------------------------------------------------------------------------------------------------

    async def _reach(self, stack: AsyncExitStack) -> None:
        """Open a live controller that is not open, and make the link."""
        self._owns_controller = isinstance(self._controller, Controller) and not self._controller.is_open
        if isinstance(self._controller, Controller) and self._owns_controller:
            await stack.enter_async_context(self._controller)
        self._link = self._new_link()
        stack.push_async_callback(self._link.close)

    def _serving(self) -> list[Coroutine[Any, Any, None]]:
        """Watch over a live controller: a bug in it ends the session."""
        return [self._controller.serve()] if isinstance(self._controller, Controller) else []

    def _new_link(self) -> ControllerLink:
        match self._controller:
            case Controller():
                return self._controller.connect()
            case ServerParams():
                return GrpcLink(self._controller.client_params())
            case ClientParams():
                return GrpcLink(self._controller)

    def _live_learners(self, stack: AsyncExitStack) -> list[LearnerClient]:
        worker = self._worker
        if self._learners and worker == "thread":
            threads = min(len(self._learners), MAX_THREADS)
            worker = stack.enter_context(ThreadPoolExecutor(threads, "metisfl-learners"))
        workers = [Worker(learner, worker) for learner in self._learners]
        clients = []
        for name, of_learner in zip(self._names, workers, strict=True):
            link = self._new_link()
            stack.push_async_callback(link.close)
            clients.append(LearnerClient(link, of_learner, name))
        return clients

    async def _drive(self, display: ProgressDisplay | None) -> FederationResult:
        link = self._link
        assert link is not None
        self._request = replace(self._request, federation_id=new_federation_id())
        timeout_s = self._request.join_timeout_secs
        if not self._learners:
            logger.info("waiting for %d learners to join %s", self._request.num_learners, link.address)
        if self._initial_model is not None:
            await insisting("the driver", link.address, timeout_s, link.set_initial_model, self._initial_model)
        try:
            await insisting("the driver", link.address, timeout_s, link.start_training, self._request)
            finished = await self._watch(link, display)
            self.result = await insisting("the driver", link.address, LOST_S, _collect, link, finished)
        except asyncio.CancelledError:
            if not self._owns_controller:
                with suppress(MetisError, TimeoutError):
                    async with asyncio.timeout(ENDING_S):
                        await link.shut_down()
            raise
        await link.shut_down()
        if finished.is_failure:
            raise QuorumLost(finished.reason)
        return self.result

    async def _watch(self, link: ControllerLink, display: ProgressDisplay | None) -> FederationFinished:
        """Pass the events on until the last one; a connection that breaks is made again."""
        seen = 0

        async def follow() -> tuple[AsyncIterator[Event], Event]:
            events = link.watch_events(self._request.federation_id)
            return events, await anext(events)

        while True:
            try:
                events, event = await insisting("the driver", link.address, LOST_S, follow)
                position = 0  # a new stream tells everything from the start
                while True:
                    position += event.count if isinstance(event, EventsMissed) else 1
                    if position > seen:
                        seen = position
                        self._log.append(event)
                        if display is not None:
                            display.show(event)
                        if isinstance(event, RoundFinished):
                            self._look_for_metric(event.record)
                        if isinstance(event, FederationFinished):
                            return event
                    event = await anext(events)
            except StopAsyncIteration:
                if isinstance(self._controller, Controller) and self._controller.is_open:
                    await self._controller.serve()  # raises why, if it was a bug
                raise ConnectionLost(link.address, "the controller closed before the federation was over") from None
            except TransportError:
                if seen == 0:
                    raise
                await asyncio.sleep(PAUSE_S)

    def _look_for_metric(self, record: RoundRecord) -> None:
        """Warn if the metric that should end it is not measured: it would never end."""
        metric, measured = self._request.signals.evaluation_metric, record.evaluation_metrics
        if metric is not None and measured and metric not in measured and self._repeats.count(metric):
            logger.warning("no learner reports the evaluation_metric %r; they report %s", metric, ", ".join(measured))


async def _collect(link: ControllerLink, finished: FederationFinished) -> FederationResult:
    records = [record async for record in link.get_logs()]
    try:
        model = await link.get_model()
    except UnexpectedMessage:  # nobody ever gave the first weights
        return FederationResult(None, None, records, finished.reason)
    return FederationResult(model.arrays(), model.version, records, finished.reason)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def _run(main: Coroutine[Any, Any, FederationResult]) -> FederationResult:
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def _run_in_thread(main: Coroutine[Any, Any, FederationResult]) -> FederationResult:
    """Run in a fresh thread; an interrupt of this one cancels it there, and is raised when it has ended."""
    task: asyncio.Task[FederationResult] | None = None
    outcome: list[FederationResult | BaseException] = []
    has_begun = threading.Event()

    async def remember_task() -> FederationResult:
        nonlocal task
        task = asyncio.create_task(main)
        has_begun.set()
        return await task

    def target() -> None:
        try:
            outcome.append(_run(remember_task()))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread instead
            outcome.append(error)
        finally:
            has_begun.set()

    thread = threading.Thread(target=target, name="metisfl-session")
    thread.start()
    try:
        thread.join()
    except BaseException:
        has_begun.wait()
        if task is not None:
            with suppress(RuntimeError):  # it has just ended, and closed its loop
                task.get_loop().call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
