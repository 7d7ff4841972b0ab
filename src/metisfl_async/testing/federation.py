"""A whole federation on one virtual loop: the real controller, driver and clients, over lines that can be spoiled."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from metisfl_async.controller.controller import Controller
from metisfl_async.controller.snapshot import Snapshot
from metisfl_async.core.checks import number
from metisfl_async.core.config import ClientParams, ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError, ConnectionLost
from metisfl_async.core.federation.events import Event
from metisfl_async.driver.parties import told_apart
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.session import DriverSession
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.worker import Worker
from metisfl_async.testing.faults import ADDRESS, Call, Faults, Line
from metisfl_async.testing.loop import VirtualLoop
from metisfl_async.testing.wire import Passing, Wire
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import end_all
from metisfl_async.transport.memory import MemoryLink

__all__ = ["Federation"]

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Event)

CONTROLLER, DRIVER = "controller", "driver"
WEEK_S = 7 * 86_400.0
LEFT = ("staged_bytes", "uploads_waiting", "downloads_waiting")  #: of a snapshot; 0 once all parties have ended
NO_VIRTUAL_LOOP = (
    "a test federation needs a virtual loop: metisfl_async.testing.run(main()), or in a pytest test the fixture "
    "`federation` and pytest-asyncio 1.4 or newer"
)
NOT_BEGUN = "the federation has not begun; write: async with federation(...) as fed"
LEAVING_S = 60.0  #: for learners; one that was away when it ended does not hear of it


class Federation:
    """A federation in virtual time; ``async with`` starts it, ends what is left of it, and sees that nothing is.

    Its controller, driver and clients are those that are used over a network; only the lines between them are not.
    Parties go by name: "controller", "driver", and the learners' own.

    Parameters
    ----------
    learners : mapping of str to Learner, or sequence of Learner
        As `DriverSession` takes live ones; without names, they are "learner-0", "learner-1", ...
    termination_signals : TerminationSignals
    controller_config : ControllerConfig, optional
    model_store_config : ModelStoreConfig, optional
        One that outlives a controller, for a controller that is killed and restarted.
    lines : mapping of str to Line, optional
        How fast which party's line is; others take no time.
    seed : int
        Draws delays and pauses, and, as `DriverSession` does, cohorts.
    at_most_secs : float
        `result` gives up after so much virtual time.
    **session
        What else `DriverSession` takes, such as `initial_weights` or `evaluate`.

    Attributes
    ----------
    controller : Controller or None
        None while it is down after it was killed.
    events : list of Event
        What the driver has been told.
    log : list of str
        What happened when: events, faults, and warnings of the library.
    """

    def __init__(
        self,
        learners: Mapping[str, Learner] | Sequence[Learner],
        termination_signals: TerminationSignals,
        *,
        controller_config: ControllerConfig | None = None,
        model_store_config: ModelStoreConfig | None = None,
        lines: Mapping[str, Line] | None = None,
        seed: int = 1990,
        at_most_secs: float = WEEK_S,
        **session: Any,
    ) -> None:
        self.learners, _, count = told_apart(learners)
        if len(self.learners) < count:
            raise ConfigError("learners", learners, "live Learner objects")
        lines = dict(lines or {})
        if strange := sorted(lines.keys() - {*self.learners, DRIVER}):
            raise ConfigError("lines", strange, f"only {', '.join([*self.learners, DRIVER])}")
        self._config, self._store_config = controller_config or ControllerConfig(), model_store_config
        self._config.check_signals(termination_signals, evaluates=session.get("evaluate") is not None)
        self.seed, self._at_most_secs = seed, at_most_secs
        self.controller: Controller | None = None
        self.events: list[Event] = []
        self.log: list[str] = []
        self._wires = {
            name: Wire(Faults(name, lines.get(name, Line()), seed, self._note), self._dial)
            for name in (*self.learners, DRIVER)
        }
        self._session = _Session(self._wires[DRIVER], count, termination_signals, seed=seed, **session)
        self._parties: dict[str, asyncio.Task[Any]] = {}  # the driver and the learners that are alive
        self._changed = asyncio.Event()
        self._stood: Snapshot | None = None  # how the controller stood once all parties had ended

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError(NO_VIRTUAL_LOOP)
        self._loop, self._began_at = loop, loop.time()
        self._others, self._unclosed = asyncio.all_tasks(), len(loop.unclosed)
        self._random_state = random.getstate()
        random.seed(self.seed)  # the pauses of clients
        self._handler = _Noting(self._note)
        logging.getLogger("metisfl_async").addHandler(self._handler)
        await self._open(resume=False)
        for name in self.learners:
            self._start(name)
        self._parties[DRIVER] = asyncio.create_task(self._session.run(), name=DRIVER)
        self._follower = asyncio.create_task(self._follow(), name="follow-events")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await end_all([*self._parties.values(), self._follower])
            for wire in self._wires.values():
                await wire.close()
            if self.controller is not None and self.controller.is_open:
                self._stood = self.controller.snapshot()
                await self.controller.close()
            if error is None:
                self.nothing_left()
        except BaseException as problem:
            problem.add_note(self.report())
            raise
        finally:
            logging.getLogger("metisfl_async").removeHandler(self._handler)
            random.setstate(self._random_state)
        if isinstance(error, Exception):
            error.add_note(self.report())

    # --- time and what happens -------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the federation was started."""
        return self._loop.time() - self._began_at

    @property
    def is_over(self) -> bool:
        """Whether the driver has the result, or has failed."""
        self._check_begun()
        return self._parties[DRIVER].done()

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass, or rather jump."""
        await asyncio.sleep(seconds)

    async def event(self, kind: type[E], **facts: object) -> E:
        """Wait for the first event of a kind whose fields are so, if it has not been yet.

        Raises
        ------
        LookupError
            If the federation ended without it.
        """
        self._check_begun()
        seen = 0
        while True:
            for event in self.events[seen:]:
                if isinstance(event, kind) and all(getattr(event, name) == fact for name, fact in facts.items()):
                    return event
            seen = len(self.events)
            if self._follower.done():
                raise LookupError(f"the federation ended without {kind.__name__} of {facts}")
            self._changed.clear()
            await self._changed.wait()

    async def result(self) -> FederationResult:
        """Wait for the end, and give the result; what `DriverSession.run` raises, this raises.

        Learners that hear of the end take over the final model before it returns.
        """
        self._check_begun()
        driver: asyncio.Task[FederationResult] = self._parties[DRIVER]
        await asyncio.wait([driver], timeout=self._at_most_secs)
        if not driver.done():
            raise TimeoutError(f"the federation is not over after at_most_secs={self._at_most_secs:g}")
        result = driver.result()
        await asyncio.wait([*self._parties.values(), self._follower], timeout=LEAVING_S)
        return result

    def report(self) -> str:
        """Say with which seed what happened when."""
        return "\n".join([f"the federation's log, with seed={self.seed}:", *self.log])

    def nothing_left(self) -> None:
        """See that a federation that is over left no task, no unclosed generator and nothing staged.

        Raises
        ------
        AssertionError
            It says what is left.
        """
        left = [repr(task.get_name()) for task in asyncio.all_tasks() - self._others if not task.done()]
        if self._stood is not None:
            left += [f"{name}={count}" for name in LEFT if (count := getattr(self._stood, name))]
        left += [f"generator {name}, which was not closed" for name in self._loop.unclosed[self._unclosed :]]
        if left:
            raise AssertionError(f"the federation has left: {', '.join(left)}")

    # --- what goes wrong -------------------------------------------------------------------------------------------

    def delay(self, who: str, seconds: float) -> None:
        """Let all that passes on a party's line take up to so much longer from now on; 0 ends that."""
        number("seconds", seconds, least=0)
        self._wire(who).faults.delay_s = seconds
        self._note(f"{who}: is slower by up to {seconds:g} s")

    def drop(self, who: str, what: Call | None = None, *, times: int = 1, answer: bool = False) -> None:
        """Lose the next call of a kind ("join", "message", "upload", "download", "other", or any), or its answer.

        The caller finds its connection broken. Of what is lost with its answer, the controller has heard.
        """
        self._wire(who).faults.drop(what, times, answer=answer)

    def duplicate(self, who: str, what: Call | None = None, *, times: int = 1) -> None:
        """Let the next call of a kind, or of any but "message", come to the controller twice."""
        self._wire(who).faults.duplicate(what, times)

    def cut(self, who: str, *, during: Call | None = None, at: float = 0.5) -> None:
        """Break a party's connections: now, or during its next "upload" or "download", once that share has passed."""
        wire = self._wire(who)
        if during is not None:
            wire.faults.cut_during(during, at)
        else:
            self._note(f"{who}: is cut off")
            wire.cut()

    def silence(self, who: str, seconds: float) -> None:
        """Let nothing pass on a party's line for so long; nobody is told."""
        self._wire(who).faults.silence(seconds)
        self._note(f"{who}: is silent for {seconds:g} s")

    def mend(self) -> None:
        """Take back all faults that were planned, delays and silences."""
        for wire in self._wires.values():
            wire.faults.mend()

    async def kill(self, who: str) -> None:
        """End the controller or a learner without a word, as SIGKILL does; its connections break."""
        self._check_mortal(who)
        self._note(f"{who}: is killed")
        if who == CONTROLLER:
            controller, self.controller = self.controller, None
            for wire in self._wires.values():
                wire.cut()
            if controller is not None:
                await controller.abort()
        else:
            self._wire(who).cut()
            if (party := self._parties.pop(who, None)) is not None:
                await end_all([party])

    async def restart(self, who: str) -> None:
        """Start the controller or a learner again, killed or not.

        A controller resumes from its store, if that outlives it. A learner has forgotten its tasks, and has its data.
        """
        self._check_mortal(who)
        if who == CONTROLLER and self.controller is not None:
            await self.kill(who)
        if who == CONTROLLER:
            self._note(f"{who}: is started again")
            await self._open(resume=self._store_config is not None and self._store_config.is_durable)
            return
        if who in self._parties:
            await self.kill(who)
        self._note(f"{who}: is started again")
        self._start(who)

    def _check_begun(self) -> None:
        if DRIVER not in self._parties:
            raise RuntimeError(NOT_BEGUN)

    def _check_mortal(self, who: str) -> None:
        if who not in (CONTROLLER, *self.learners):
            raise ConfigError("who", who, ", ".join([CONTROLLER, *self.learners]))

    # --- the parts -------------------------------------------------------------------------------------------------

    def _wire(self, who: str) -> Wire:
        if who not in self._wires:
            raise ConfigError("who", who, ", ".join(self._wires))
        return self._wires[who]

    async def _open(self, *, resume: bool) -> None:
        controller = Controller(None, self._config, self._store_config, resume=resume)
        self.controller = await controller.__aenter__()

    def _dial(self, passing: Passing) -> ControllerLink:
        if self.controller is None or not self.controller.is_open:
            raise ConnectionLost(ADDRESS, "it is down")
        link = self.controller.connect()
        assert isinstance(link, MemoryLink)
        link.passing = passing
        return link

    def _start(self, name: str) -> None:
        client = self._client(name)
        self._parties[name] = asyncio.create_task(client.run(), name=name)

    def _client(self, name: str) -> LearnerClient:
        return LearnerClient(self._wires[name], Worker(self.learners[name], _Here(), name=name), name)

    async def _follow(self) -> None:
        try:
            async for event in self._session.events():
                self._note(str(event))
                self.events.append(event)
                self._changed.set()
        finally:
            self._loop.call_soon(self._changed.set)

    def _note(self, what: str) -> None:
        self.log.append(f"{self.now:12.3f} s  {what}")


class _Session(DriverSession):
    """A session whose controller is at the other end of a wire."""

    def __init__(self, wire: Wire, num_learners: int, signals: TerminationSignals, **options: Any) -> None:
        super().__init__(ClientParams(), num_learners, signals, **options)
        self._hosting.new_link = lambda: wire


class _Here(Executor):
    """Calls at once, in the caller's thread: a virtual loop knows no others."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whatever the function raises
            future.set_exception(error)
        return future


class _Noting(logging.Handler):
    """Notes what the library warns of."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note_line = note

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(RuntimeError):
            self._note_line(f"{record.levelname.lower()}: {record.getMessage()}")
