"""Connects a learner to a controller and does the tasks that come, through any number of broken connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TypeVar

from metisfl_async.codec.frame import Header
from metisfl_async.core.errors import (
    ConnectionLost,
    MetisError,
    PeerTimeout,
    Superseded,
    TransportError,
    UnexpectedMessage,
    UnknownLearner,
)
from metisfl_async.core.federation.tasks import HeldTask, TaskKind, Verdict
from metisfl_async.core.ids import LearnerId, TaskId, Token
from metisfl_async.core.messages import (
    Accept,
    ControllerMessage,
    Evaluated,
    Failed,
    Farewell,
    Heartbeat,
    Hello,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    Settled,
    TaskOffer,
    Welcome,
    Withdrawn,
)
from metisfl_async.core.model import Model
from metisfl_async.learner.outcome import Outcome
from metisfl_async.learner.worker import Worker, users_part
from metisfl_async.transport.base import LearnerLink, Stream
from metisfl_async.transport.concurrency import end_all, first_of
from metisfl_async.transport.retry import insisting

__all__ = ["LearnerClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
GOODBYE_S = 5.0  #: for reaching a controller once more, and for telling it that we leave
MAX_TEXT = 10_000  #: characters of an error that a controller is told


class _Gone(MetisError):
    """The controller is not there any more; nothing is tried again."""


@dataclass(slots=True)
class _Held:
    """A task that the controller awaits from us."""

    offer: TaskOffer
    outcome: Evaluated | Failed | None = None  #: to be sent until it is settled
    is_done: bool = False


class LearnerClient:
    """One learner's side of the protocol: `run` ends when the controller says farewell.

    Two coroutines share the state here: one stays connected, the other works through the tasks in order. A task is
    held until the controller has its outcome, whatever happens to the connection.
    """

    def __init__(
        self, link: LearnerLink, worker: Worker, learner_id: str = "", connect_timeout_s: float | None = None
    ) -> None:
        self._link, self._worker = link, worker
        self._id = LearnerId(learner_id)
        self._connect_timeout_s = connect_timeout_s
        self._joined: JoinReply | None = None  # of the latest incarnation
        self._is_connected = asyncio.Event()
        self._patience: asyncio.Timeout | None = None  # while the next message is waited for
        self._held: dict[TaskId, _Held] = {}
        # Neither queue is bounded by itself: the controller has at most a few tasks open with one learner.
        self._offers: asyncio.Queue[TaskOffer | Farewell] = asyncio.Queue()
        self._outbox: asyncio.Queue[LearnerMessage] = asyncio.Queue()
        self._running: tuple[TaskId, asyncio.Task[None]] | None = None
        self._model: Model | None = None  # the latest that was fetched
        self._is_leaving = False  # whether goodbye is being said
        self._has_weights = False  # whether the learner has taken over first weights

    async def run(self) -> None:
        """Take part until the federation is over."""
        try:
            await first_of(self._work(), self._stay_connected())
        finally:
            await self._worker.close()

    # --- staying connected -----------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        has_been_connected = False
        while True:
            timeout_s = None if has_been_connected else self._connect_timeout_s
            stack, stream = await insisting(self._who, self._link.address, timeout_s, self._open)
            has_been_connected = True
            async with stack:
                try:
                    await self._converse(stream)
                except (TransportError, UnknownLearner, Superseded) as error:
                    if self._is_leaving:
                        await asyncio.Event().wait()  # until `_work` has ended, and ends us
                    logger.warning("%s lost %s (%s); connecting again", self._id, self._link.address, error)
                finally:
                    self._is_connected.clear()
            await asyncio.sleep(random.uniform(0.0, 0.2))

    async def _open(self) -> tuple[AsyncExitStack, Stream[ControllerMessage, LearnerMessage]]:
        """Join, say which tasks are held, and follow the verdicts."""
        token = self._joined.token if self._joined else Token("")
        async with AsyncExitStack() as stack:
            self._joined = await self._link.join(JoinRequest(self._id, token))
            self._id = self._joined.learner_id
            stream = await stack.enter_async_context(self._link.tasks())
            held = [HeldTask(task_id, task.is_done) for task_id, task in self._held.items()]
            await stream.send(Hello(self._joined.token, held))
            welcome = await self._next(stream)
            if not isinstance(welcome, Welcome):
                raise UnexpectedMessage(f"the answer to Hello must be Welcome, not {type(welcome).__name__}")
            self._outbox = asyncio.Queue()
            for task_id, (verdict, reason) in welcome.verdicts.items():
                if verdict is Verdict.DISCARD:
                    self._drop(task_id, reason)
            for task in self._held.values():
                if task.outcome is not None:
                    self._outbox.put_nowait(task.outcome)
            self._is_connected.set()
            logger.info("%s joined %s", self._id, self._link.address)
            return stack.pop_all(), stream
        raise AssertionError  # an AsyncExitStack of ours swallows nothing

    async def _converse(self, stream: Stream[ControllerMessage, LearnerMessage]) -> None:
        await first_of(self._receive(stream), self._send(stream), self._beat())

    async def _send(self, stream: Stream[ControllerMessage, LearnerMessage]) -> None:
        while True:
            await stream.send(await self._outbox.get())

    async def _beat(self) -> None:
        assert self._joined is not None
        while True:
            await asyncio.sleep(self._joined.heartbeat_secs)
            self._outbox.put_nowait(Heartbeat())

    async def _receive(self, stream: Stream[ControllerMessage, LearnerMessage]) -> None:
        while True:
            match await self._next(stream):
                case TaskOffer() as offer:
                    if offer.task_id not in self._held:
                        self._held[offer.task_id] = _Held(offer)
                        self._offers.put_nowait(offer)
                    self._outbox.put_nowait(Accept(offer.task_id))
                case Settled(task_id):
                    self._held.pop(task_id, None)
                case Withdrawn(task_id, reason):
                    self._drop(task_id, reason)
                case Farewell() as farewell:
                    for task_id in tuple(self._held):
                        self._drop(task_id, farewell.reason)
                    self._offers.put_nowait(farewell)
                case Heartbeat() | Welcome():
                    pass

    async def _next(self, stream: Stream[ControllerMessage, LearnerMessage]) -> ControllerMessage:
        assert self._joined is not None
        try:
            async with asyncio.timeout(self._joined.lease_secs) as self._patience:
                message = await stream.receive()
        except TimeoutError:
            raise PeerTimeout(self._link.address, f"silent for {self._joined.lease_secs:g} s") from None
        finally:
            self._patience = None
        if message is None:
            raise ConnectionLost(self._link.address, "the controller ended the connection")
        return message

    def _heard(self) -> None:
        """Be as patient again: the controller lives, what it says may wait behind the model that it sends."""
        assert self._joined is not None
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + self._joined.lease_secs)

    def _drop(self, task_id: TaskId, reason: str) -> None:
        """Forget a task; if it is being worked on, stop."""
        if self._held.pop(task_id, None) is not None:
            logger.info("%s drops task %s: %s", self._id, task_id, reason)
        if self._running is not None and self._running[0] == task_id:
            self._running[1].cancel()

    # --- working ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            offer = await self._offers.get()
            if isinstance(offer, Farewell):
                await self._leave(offer)
                return
            if offer.task_id in self._held:
                task = asyncio.create_task(self._do(offer), name=f"task-{offer.kind}")
                self._running = offer.task_id, task
                try:
                    await asyncio.wait([task])
                finally:
                    self._running = None
                    await end_all([task])
                if not task.cancelled():
                    task.result()

    async def _do(self, offer: TaskOffer) -> None:
        """Do one task; whatever goes wrong becomes its outcome."""
        try:
            match offer.kind:
                case TaskKind.GET_WEIGHTS:
                    await self._deliver(offer, Outcome(await self._worker.get_weights()))
                case TaskKind.TRAIN:
                    model = await self._fetch(offer.model_version)
                    outcome = await self._worker.train(model, offer.config)
                    await self._deliver(offer, outcome, model.version)
                    if not model.is_frozen:  # where models are shared, in one process, learners are many
                        self._worker.recycle(outcome.model)
                case TaskKind.EVALUATE:
                    model = await self._fetch(offer.model_version)
                    metrics = await self._worker.evaluate(model, offer.config)
                    self._report(offer.task_id, Evaluated(offer.task_id, metrics))
        except Exception as error:
            trace = (type(error), error, users_part(error.__traceback__))
            logger.error("%s failed to %s in round %d", self._id, offer.kind, offer.round_number, exc_info=trace)
            self._report(offer.task_id, Failed(offer.task_id, type(error).__name__, _text(error)))

    def _report(self, task_id: TaskId, outcome: Evaluated | Failed) -> None:
        """Send an outcome on the Tasks stream, again after every break, until it is settled."""
        if (held := self._held.get(task_id)) is not None:
            held.outcome, held.is_done = outcome, True
            if self._is_connected.is_set():
                self._outbox.put_nowait(outcome)

    async def _deliver(self, offer: TaskOffer, outcome: Outcome, model_version: int = 0) -> None:
        """Push an update until the controller has answered."""
        if (held := self._held.get(offer.task_id)) is None:
            return
        held.is_done = True

        async def push(token: Token) -> None:
            header = Header(
                "update",
                outcome.model.manifest,
                model_version,
                offer.task_id,
                token,
                outcome.metrics,
                outcome.metadata,
            )
            reply = await self._link.train_done(header, outcome.model)
            if not reply.is_counted:
                logger.warning(
                    "%s: the update of round %d does not count: %s", self._id, offer.round_number, reply.reason
                )

        await self._insist(push)
        self._held.pop(offer.task_id, None)

    async def _fetch(self, version: int) -> Model:
        """Get a global model, from the controller unless it is the one that was fetched last.

        Without rounds, what the controller gives may be newer than what the task says.
        """
        model = await self._received(version)
        if not self._has_weights:
            await self._worker.set_weights(model)
            self._has_weights = True
        return model

    async def _received(self, version: int, patience_s: float | None = None) -> Model:
        """Receive a model that is not here, in the memory of the one before."""
        if self._model is None or self._model.version != version:
            before, self._model = self._model, None
            again = None if before is None else before.buffer

            async def pull(token: Token) -> Model:
                assert self._joined is not None
                return await self._link.fetch_model(token, version, self._joined.max_model_bytes, again, self._heard)

            self._model = await self._insist(pull, patience_s)
        return self._model

    async def _leave(self, farewell: Farewell) -> None:
        """Take over the final model and say goodbye; a controller that is gone by now is not waited for long."""
        assert self._joined is not None
        try:
            version = farewell.model_version
            if version is not None:
                await self._worker.set_weights(await self._received(version, GOODBYE_S))
        except MetisError as error:
            logger.warning("%s could not get the final model: %s", self._id, error)
        except Exception:  # the user's set_weights may raise anything
            logger.exception("%s failed to take over the final model", self._id)
        self._is_leaving = True
        with suppress(MetisError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._link.leave(self._joined.token)
        logger.info("%s left %s: %s", self._id, self._link.address, farewell.reason)

    # --- insisting -------------------------------------------------------------------------------------------------

    async def _insist(self, call: Callable[[Token], Awaitable[T]], patience_s: float | None = None) -> T:
        """Call the controller until it answers; broken connections are waited out, each for so long if it is said."""

        async def attempt() -> T:
            try:
                async with asyncio.timeout(patience_s):
                    await self._is_connected.wait()
            except TimeoutError:
                raise _Gone(f"no connection to {self._link.address} was made in {patience_s:g} s") from None
            assert self._joined is not None
            return await call(self._joined.token)

        return await insisting(self._who, self._link.address, None, attempt)

    @property
    def _who(self) -> str:
        return self._id or "a learner"


def _text(error: Exception) -> str:
    """Say what a user's error says, as text that a message can carry."""
    try:
        text = str(error)
    except Exception as of_its_own:  # noqa: BLE001 - it is the user's code
        text = f"its text cannot be had: str() raises {type(of_its_own).__name__}"
    return text[:MAX_TEXT].encode(errors="backslashreplace").decode()
