"""Starts a federation, watches it, and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Unpack

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import ClientParams, ServerParams, TerminationSignals, named_learners
from metisfl_async.core.errors import ConfigError, MetisError, UnexpectedMessage
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import Event, RoundFinished
from metisfl_async.core.federation.records import Failure
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import NO_ANSWERS, StartRequest
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array
from metisfl_async.driver.asking import ask, checked_question
from metisfl_async.driver.attached import AttachedSession
from metisfl_async.driver.beginning import begin
from metisfl_async.driver.central import Central, Evaluate
from metisfl_async.driver.first_model import first_model
from metisfl_async.driver.following import abandon, collect, end, interrupt, raise_failure
from metisfl_async.driver.following import stop as ask_to_stop
from metisfl_async.driver.hosting import Hosting
from metisfl_async.driver.parties import LearnersGiven, RemoteOptions, check_options, check_remote, checked_learners
from metisfl_async.driver.progress import ProgressDisplay
from metisfl_async.driver.reached import Reached
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.stopping import NothingBegun, StopRequest
from metisfl_async.driver.sync import a_loop_runs, run_here, run_in_thread
from metisfl_async.driver.watching import Watchers, checked_watchers, watched
from metisfl_async.learner.stopping import STOP_TIMEOUT_S, Stopping
from metisfl_async.learner.worker import WorkerKind
from metisfl_async.simulation.simulation import Simulation
from metisfl_async.store.event_log import EventLog, EventStream
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import beside, first_of
from metisfl_async.web.page import Page

__all__ = ["DriverSession"]

logger = logging.getLogger(__name__)

LOST_S = 60.0  #: how long a remote controller may be out of reach before the driver gives up


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
    learners : sequence of Learner, ServerParams or ClientParams, mapping of str to Learner, Simulation, or int
        Live learners, which then run in this process under the names "learner-0", "learner-1", ..., or under those of
        the mapping; the addresses of remote ones that listen, which the controller then dials; or how many remote ones
        to wait for; or simulated ones, of a live controller. Live learners reach it in memory if it has no
        `server_params`, else over its port.
    termination_signals : TerminationSignals
        When it ends.
    initial_weights : sequence of ndarray, mapping, path, torch.nn.Module or keras.Model, optional
        Where training starts: arrays, also by name as in a `state_dict`; the path of a `model.safetensors`; or a model.
        Without them, one learner is asked for its weights.
    evaluate : callable, optional
        ``evaluate(parameters, round_number)`` gives metrics of each new global model, measured here, on data that no
        learner has: they are in the round's record as `central`. An ``async def``, or a ``def``, which runs in a
        thread. The next round waits for it. For schedulers with rounds.
    seed : int
        Draws the learner that gives the first weights, and the cohorts: the same ones in each run.
    join_timeout_secs : float, optional
        How long to wait for the controller and the learners; without it, for ever.
    worker : {"thread", "process"} or concurrent.futures.Executor
        Where the methods of live learners run; see `run_learner`. Threads are shared: 32 at most.
    keep_running : bool
        Leave the controller and its remote learners there when the federation is over, for the next session.
    lost_secs : float, optional
        How long a remote controller may be out of reach before `run` gives up; None = for ever.
    stop_timeout_secs : float, optional
        When a live learner's task is not wanted any more, because of a stop, a cancellation or a deadline: how long its
        method may go on before it is given up, so that `run` can return; None = for ever. See `run_learner`.
    """

    def __init__(
        self,
        controller: Controller | ClientParams | ServerParams,
        learners: LearnersGiven,
        termination_signals: TerminationSignals,
        *,
        initial_weights: Sequence[Array] | Mapping[str, Any] | str | Path | Any | None = None,
        evaluate: Evaluate | None = None,
        seed: int = 1990,
        join_timeout_secs: float | None = None,
        worker: WorkerKind = "thread",
        keep_running: bool = False,
        lost_secs: float | None = LOST_S,
        stop_timeout_secs: float | None = STOP_TIMEOUT_S,
    ) -> None:
        check_options(controller, termination_signals, evaluate, join_timeout_secs, lost_secs)
        live, named, num_learners = checked_learners(controller, learners)
        self._simulation = learners if isinstance(learners, Simulation) else None
        num_here = num_learners if self._simulation else len(live)
        if keep_running and num_here:
            raise ConfigError("keep_running", keep_running, "False with live learners: they end with their session")
        self._controller, self._learners = controller, live
        self._request = StartRequest(
            termination_signals,
            num_learners,
            seed,
            join_timeout_secs,
            FederationId(""),
            named_learners("learners", named),
            evaluates=evaluate is not None,
        )
        self._initial_model = None if initial_weights is None else first_model(initial_weights, live.values())
        self._evaluate = evaluate
        self._stopping = Stopping(stop_timeout_secs)
        self._hosting = Hosting(controller, live, worker, self._stopping, self._simulation)
        self._busy = ""  # with what: it does one thing at a time
        self._stop: StopRequest | None = None  # of the run that was called
        self._keep_running, self._lost_secs = keep_running, lost_secs
        self._log = EventLog()
        self._link: ControllerLink | None = None  # while running
        self._has_link = asyncio.Event()  # of the run that was called; set at its end, too
        self._driving: asyncio.Task[Any] | None = None  # likewise
        self._forget_run()

    def _forget_run(self) -> None:
        """Make ready for a run."""
        self._federation_id, self._has_begun = FederationId(""), False
        self._result: FederationResult | None = None
        self._reached = Reached(self._request.signals.evaluation_metric)

    @classmethod
    def remote(
        cls,
        controller: ClientParams | ServerParams,
        termination_signals: TerminationSignals,
        *,
        wait_for: int | Sequence[ServerParams | ClientParams],
        **options: Unpack[RemoteOptions],
    ) -> DriverSession:
        """Drive a controller that runs elsewhere, and learners that do.

        ::

            result = await DriverSession.remote(ClientParams("controller.example", 50051), signals, wait_for=3).run()

        `wait_for` says how many learners must have dialled in before training begins, or has the addresses of those
        that listen, which the controller dials. The options are those of `DriverSession` that are not about live ones.
        """
        check_remote(controller, wait_for)
        return cls(controller, wait_for, termination_signals, **options)

    @classmethod
    def attach(cls, controller: ClientParams | ServerParams, *, lost_secs: float | None = LOST_S) -> AttachedSession:
        """Come to a federation that another driver has started: follow it, stop it, or fetch its result.

        ::

            result = await DriverSession.attach(ClientParams("controller.example", 50051)).run()
        """
        return AttachedSession(controller, lost_secs=lost_secs)

    @property
    def result(self) -> FederationResult | None:
        """What the last run reached, also when it failed or was interrupted; None before the first one.

        While it runs: the rounds so far and the version of the latest model, without the model.
        """
        return self._result or (self._reached.result() if self._federation_id else None)

    def run(
        self, *, progress: bool = False, resume: bool = False, watch: Watchers[DriverSession] = ()
    ) -> Coroutine[Any, Any, FederationResult]:
        """Run the federation until a termination signal is reached, or `stop` is called.

        Cancelling it stops the federation in order: `result` and live learners have what was reached, and everything
        that it started has ended, except methods that go on after `stop_timeout_secs`. A controller that was there
        before is told to end too, unless `keep_running`.

        Parameters
        ----------
        progress : bool
            Show a live display in a terminal or notebook; elsewhere, log a line a round; without rounds, now and then.
        resume : bool
            Go on with the federation that the controller holds, or was started again with; without one, start. A live
            controller that is not open is opened so that it resumes.
        watch : sequence of callables
            Run these beside it: trackers, or async functions that take this session. One that fails is logged, and
            changes nothing. When the events have ended, they have `stop_timeout_secs` to end as well.

        Raises
        ------
        QuorumLost
            If too few learners came, stayed or delivered. `result` holds what was reached.
        NoModel
            If the rule made no model that can be published, `max_failed_rounds` times in a row; the same holds.
        StoreError
            If the model store failed for `ModelStoreConfig.retry_secs`. `result` holds what was reached.
        TransportError
            If a remote controller cannot be reached.
        UnexpectedMessage
            If it is running already, or a live learner is still in a method that was given up.
        """
        stop, watch = StopRequest(), checked_watchers(watch)
        if not self._busy:
            self._stop = stop  # it may be asked for from now on, although nothing runs before this is awaited
            self._has_link = asyncio.Event()
        return self._run(stop, watch, progress=progress, resume=resume)

    async def _run(
        self, stop: StopRequest, watch: Watchers[DriverSession], *, progress: bool, resume: bool
    ) -> FederationResult:
        self._begin_with("running")
        if self._stop is not stop:  # something else went on when it was called
            self._stop, self._has_link = stop, asyncio.Event()
        if self._log.is_closed:
            self._log = EventLog()
        self._forget_run()
        try:
            async with watched(self, watch, self._log, self._stopping.timeout_s):
                return await self._run_parts(stop, progress=progress, resume=resume)
        finally:
            self._link, self._driving, self._stop, self._busy = None, None, None, ""
            self._has_link.set()

    async def _run_parts(self, stop: StopRequest, *, progress: bool, resume: bool) -> FederationResult:
        try:
            async with AsyncExitStack() as stack:
                self._link = await self._hosting.reach(stack, resume=resume)
                self._has_link.set()
                display = None
                if progress:
                    logged, joins = self._learners.keys(), not self._hosting.owns_controller
                    signals, count = self._request.signals, self._request.num_learners
                    display = stack.enter_context(ProgressDisplay(signals, count, logged=logged, joins=joins))
                learners = self._hosting.clients(stack)
                driving = self._driving = asyncio.create_task(self._drive(stop, display, resume=resume), name="drive")
                others = [
                    *self._hosting.serving(driving if self._keep_running else None),
                    *(learner.run() for learner in learners),
                ]
                try:
                    return await beside(driving, *others, before_cancelling=self._end_in_order)
                except NothingBegun:
                    self._result = FederationResult(None, None, [], stop.reason, ending=Ending.STOPPED)
                    return self._result
            raise AssertionError  # an AsyncExitStack of ours swallows nothing
        except BaseException as error:
            is_interrupted = isinstance(error, asyncio.CancelledError)
            self._reached.end("it was interrupted" if is_interrupted else f"{type(error).__name__}: {error}")
            raise

    def run_sync(
        self, *, progress: bool = False, resume: bool = False, watch: Watchers[DriverSession] = ()
    ) -> FederationResult:
        """Do `run` and block, whether or not an event loop runs in this thread.

        ``asyncio.run(session.run())`` raises Python's own error in a notebook cell; this works there too: it uses a
        fresh loop, in a thread of its own where this thread's loop is running.
        """
        if not a_loop_runs():
            return run_here(self.run(progress=progress, resume=resume, watch=watch))
        if isinstance(self._controller, Controller) and self._controller.is_open:
            raise ConfigError("controller", "open", "one that is not open: it belongs to the loop of this thread")
        return run_in_thread(self.run(progress=progress, resume=resume, watch=watch))

    def events(self) -> EventStream:
        """Follow the current or coming run: all its events so far, then each as it happens, until it ends."""
        return self._log.follow()

    def show(self) -> Page:
        """Show the live page, as the value of a notebook's cell; `run` is awaited in another one. Needs uvicorn."""
        return Page(self).open()

    async def stop(self, reason: str = "stop was asked for") -> None:
        """End the running federation in order: `run` returns what was reached.

        That works from the moment `run` was called. A federation that has not begun ends as soon as it has.
        """
        if self._stop is None:
            raise UnexpectedMessage("the session is not running")
        self._stop.ask(reason)
        if self._has_begun and self._link is not None and self._driving is not None and not self._driving.done():
            asking = ask_to_stop(self._link, self._federation_id, reason, self._lost_secs)
            await first_of(asking, asyncio.wait([self._driving]))

    async def ask(
        self, method: str, params: Mapping[str, Json] | None = None, *, timeout_secs: float = 60.0
    ) -> dict[str, Json | Failure]:
        """Call a method of all connected learners, one that their class marks with `askable`.

        Give for each what it answered, at most 96 KiB as JSON, or the `Failure` that says why it did not within
        `timeout_secs`. The method gets `params`, a dict, at most 48 KiB as JSON. Before training starts, also when
        nothing runs, all learners of the session are waited for, for `join_timeout_secs`. One that trains answers when
        it has finished.

        Raises
        ------
        UnexpectedMessage
            If the learners are simulated.
        QuorumLost
            If the learners did not come.
        TransportError
            If a remote controller cannot be reached.
        """
        if self._simulation is not None:
            raise UnexpectedMessage(NO_ANSWERS)
        request = checked_question(method, params, timeout_secs)
        if self._stop is not None:
            await self._has_link.wait()
        if self._link is None or not self._reached.first_weights:
            request = request.once_there(self._request)
        if self._link is not None:
            return await ask(self._link, request, self._lost_secs)
        self._begin_with("asking")
        try:
            return await self._hosting.ask(request, self._lost_secs)
        finally:
            self._busy = ""

    # --- the parts -------------------------------------------------------------------------------------------------

    def _begin_with(self, what: str) -> None:
        if self._busy:
            raise UnexpectedMessage(f"the session is {self._busy} already")
        self._busy = what

    async def _drive(self, stop: StopRequest, display: ProgressDisplay | None, *, resume: bool) -> FederationResult:
        """Start the federation, or come back to it; follow it to its end, and collect what came of it."""
        link = self._link
        assert link is not None
        try:
            await stop.unless_asked(self._begin(link, resume=resume))
            self._has_begun = True
            if stop.is_asked:
                await ask_to_stop(link, self._federation_id, stop.reason, self._lost_secs)
            central = Central(self._evaluate, link, self._lost_secs)
            following = self._hosting.follow(
                link, self._federation_id, lambda event: self._note(event, display, central), self._lost_secs
            )
            finished = await central.beside(following, self._federation_id)
            self._reached.end(finished.reason, finished.ending)
            failure: MetisError | None = None
            try:
                self._result = await collect(link, self._federation_id, self._reached, self._lost_secs)
            except MetisError as error:  # what the events told is the result then
                failure = error
        except (asyncio.CancelledError, NothingBegun):
            if not self._hosting.owns_controller and self._federation_id:
                await abandon(link, self._federation_id, keep_running=self._keep_running)
            raise
        await end(link, self._federation_id, keep_running=self._keep_running)
        raise_failure(finished)
        if self._result is None:
            assert failure is not None
            raise failure
        return self._result

    async def _begin(self, link: ControllerLink, *, resume: bool) -> None:
        """Start a federation, or find the one that goes on."""
        if not self._learners and self._simulation is None and not resume:
            logger.info("waiting for %d learners to join %s", self._request.num_learners, link.address)

        def named(federation_id: FederationId) -> None:
            self._federation_id = federation_id

        await begin(link, self._request, self._initial_model, named, resume=resume)

    async def _end_in_order(self) -> None:
        """Stop the federation, and let everybody have what was reached: the run is to be cancelled."""
        link, driving = self._link, self._driving
        if link is not None and driving is not None and self._federation_id and not driving.done():
            await interrupt(link, self._federation_id, driving)

    def _note(self, event: Event, display: ProgressDisplay | None, central: Central) -> None:
        """Pass an event on to those who watch; a round that was cut is in the result, and is no finished round."""
        central.note(event)
        self._reached.note(event)
        if isinstance(event, RoundFinished) and event.record.was_cut:
            return
        self._log.append(event)
        if display is not None:
            display.show(event)
