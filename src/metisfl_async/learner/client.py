"""Connects a learner to a controller and does the tasks that come, through any number of broken connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeAlias, TypeVar, assert_never

from metisfl_async.codec.coded import effort
from metisfl_async.core.codecs import DOWNLOAD_CODECS, RAW
from metisfl_async.core.errors import (
    ConnectionLost,
    MetisError,
    Superseded,
    TransportError,
    UnexpectedMessage,
    UnknownFederation,
    UnknownLearner,
)
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, TaskId, Token
from metisfl_async.core.messages import (
    TRAINED_BEFORE,
    Afterwards,
    ControllerMessage,
    Evaluated,
    Failed,
    Farewell,
    Heartbeat,
    Hello,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    Outcome,
    TaskOffer,
    UpdateReply,
    Welcome,
)
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.learner.answering import Answering
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.hearing import Hearing
from metisfl_async.learner.learner import Config
from metisfl_async.learner.outcome import Trained, text_of
from metisfl_async.learner.part import Begin, Drop, End, Forget, Part, Push, Reply, Say, Step
from metisfl_async.learner.shrinking import Shrinking, Update
from metisfl_async.learner.spool import Spool, Spooled
from metisfl_async.learner.works import Works
from metisfl_async.transport.base import LearnerLink, Stream
from metisfl_async.transport.concurrency import aside, end_all, first_of
from metisfl_async.transport.retry import insisting

__all__ = ["LearnerClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Tasks: TypeAlias = Stream[Sequence[ControllerMessage], LearnerMessage]
GOODBYE_S = 5.0  #: for reaching a controller once more, and for telling it that we leave


class _Gone(MetisError):
    """The controller is not there any more; nothing is tried again."""


class LearnerClient:
    """One learner's side of the protocol: `run` ends when the controller says farewell.

    `Part` decides what is held and said. Three coroutines carry it out: one stays connected, one works through the
    tasks in order, one sends updates. An update is held until a model with it is published, whatever happens to the
    connection or to the controller.
    """

    def __init__(
        self,
        link: LearnerLink,
        worker: Works,
        learner_id: str = "",
        connect_timeout_s: float | None = None,
        spool: Spool | None = None,
        *,
        held: Sequence[TaskOffer] = (),
        failures: FailureLog | None = None,
    ) -> None:
        self._link, self._worker = link, worker
        self._id = LearnerId(learner_id)
        self._connect_timeout_s = connect_timeout_s
        self._held = held  # of before we were started again, and to be done from the beginning
        self._part, self._spool, self._failures = Part(), spool, failures or FailureLog()
        self._shrinking = Shrinking()
        self._answering = Answering(worker, self._failures, lambda answer: self._carry_out([Say(answer)]))
        self._joined: JoinReply | None = None  # of the latest incarnation
        self._is_connected = asyncio.Event()
        self._hearing: Hearing | None = None  # of the latest connection
        # No queue is bounded by itself: the controller has at most a few tasks open with one learner.
        self._offers: asyncio.Queue[TaskOffer | Farewell] = asyncio.Queue()
        self._outbox: asyncio.Queue[LearnerMessage] = asyncio.Queue()
        self._pushes: asyncio.Queue[TaskId] = asyncio.Queue()
        self._updates: dict[TaskId, Update] = {}
        self._at_work: dict[tuple[str, TaskId], asyncio.Task[None]] = {}  # what is done for tasks now, by its name
        self._model: tuple[ModelRef, str, Model] | None = None  # the latest that was fetched, and in which codec
        self._is_leaving = False  # whether goodbye is being said
        self._has_weights_of: FederationId | None = None  # in which federation the learner has taken over weights

    async def run(self) -> None:
        """Take part until the federation is over."""
        try:
            if self._spool is not None:
                for kept in await self._spool.open():
                    self._updates[kept.offer.task_id] = Update.raw(kept.trained, kept.model_version, is_own=True)
                    self._part.take_up(kept.offer)
            for offer in self._held:
                self._carry_out(self._part.take_up(offer, is_done=False))
            await first_of(self._work(), self._push_all(), self._answering.run(), self._stay_connected())
        finally:
            if self._spool is not None:
                self._spool.close()
            await self._worker.close()

    # --- staying connected -----------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        has_been_connected = False
        while True:
            timeout_s = None if has_been_connected else self._connect_timeout_s
            stack, stream, hearing = await insisting(self._who, self._link.address, timeout_s, self._open)
            has_been_connected = True
            async with stack:
                try:
                    await first_of(self._receive(hearing), self._send(stream), self._beat())
                except (TransportError, UnknownLearner, Superseded) as error:
                    if self._is_leaving:
                        await asyncio.Event().wait()  # until `_work` has ended, and ends us
                    logger.warning("%s lost %s (%s); connecting again", self._id, self._link.address, error)
                finally:
                    self._is_connected.clear()
            await asyncio.sleep(random.uniform(0.0, 0.2))

    async def _open(self) -> tuple[AsyncExitStack, _Tasks, Hearing]:
        """Join, say which tasks are held, and follow the verdicts."""
        token = self._joined.token if self._joined else Token("")
        async with AsyncExitStack() as stack:
            self._joined = await self._link.join(JoinRequest(self._id, token))
            self._id = self._joined.learner_id
            self._worker.joined(self._joined)
            self._carry_out(self._part.joined(self._joined))
            stream = await stack.enter_async_context(self._link.tasks())
            await stream.send(Hello(self._joined.token, self._part.hello()))
            hearing = self._hearing = Hearing(self._link.address, self._joined, stream)
            welcome, *others = await hearing.next()
            if not isinstance(welcome, Welcome):
                raise UnexpectedMessage(f"the answer to Hello must be Welcome, not {type(welcome).__name__}")
            self._outbox = asyncio.Queue()
            for message in (welcome, *others):
                self._carry_out(self._part.told(message))
            self._is_connected.set()
            logger.info("%s joined %s", self._id, self._link.address)
            return stack.pop_all(), stream, hearing
        raise AssertionError  # an AsyncExitStack of ours swallows nothing

    async def _send(self, stream: _Tasks) -> None:
        while True:
            await stream.send(await self._outbox.get())

    async def _beat(self) -> None:
        assert self._joined is not None
        while True:
            await asyncio.sleep(self._joined.heartbeat_secs)
            self._outbox.put_nowait(Heartbeat())

    async def _receive(self, hearing: Hearing) -> None:
        while True:
            for message in await hearing.next():
                self._carry_out(self._part.told(message))
                if isinstance(message, Farewell) and message.then is Afterwards.RETURN:
                    raise ConnectionLost(self._link.address, message.reason)

    def _heard(self) -> None:
        if self._hearing is not None:
            self._hearing.renew()

    def _carry_out(self, steps: list[Step]) -> None:
        """Do what follows from what has happened; nothing here waits."""
        for step in steps:
            match step:
                case Say(message):
                    self._outbox.put_nowait(message)  # without a connection, it is said again after the next Welcome
                case Reply(question):
                    self._answering.take(question)
                case Begin(offer):
                    self._offers.put_nowait(offer)
                case Push(task_id):
                    self._pushes.put_nowait(task_id)
                case Drop(task_id, reason):
                    logger.info("%s drops task %s: %s", self._id, task_id, reason)
                    self._release(task_id, reason, "work", "push")
                case Forget(task_id, refusal):
                    self._release(task_id, refusal, "work")
                case End(farewell):
                    self._offers.put_nowait(farewell)
                case _:
                    assert_never(step)

    def _release(self, task_id: TaskId, refusal: str | None, *at_work: str) -> None:
        """Give up what is done and kept for a task; the next training gets its copy of the model in that memory."""
        for name in at_work:
            if (name, task_id) in self._at_work:
                self._at_work[name, task_id].cancel()
        self._worker.settled(task_id, refusal)
        update = self._updates.pop(task_id, None)
        if update is not None and self._spool is not None:
            self._spool.forget(task_id)
        if update is not None and ("push", task_id) not in self._at_work:
            self._recycle(update)

    def _recycle(self, update: Update) -> None:
        if update.is_own:
            self._worker.recycle(update.model)

    # --- working ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        await self._is_connected.wait()  # by then it is known whether tasks of before are wanted
        while True:
            offer = await self._offers.get()
            if isinstance(offer, Farewell):
                if await self._part_ways(offer):
                    return
            elif self._part.holds(offer.task_id):
                await self._at("work", offer.task_id, self._do(offer))

    async def _at(self, name: str, task_id: TaskId, work: Coroutine[Any, Any, None]) -> None:
        """Do some work for a task, until it is done or the task is dropped."""
        task = self._at_work[name, task_id] = asyncio.create_task(work, name=f"{name}-{task_id}")
        try:
            await asyncio.wait([task])
        finally:
            await end_all([task])
            del self._at_work[name, task_id]
            if self._spool is not None and not self._part.holds(task_id):
                self._spool.forget(task_id)  # it may have been dropped while it was saved
        if not task.cancelled():
            task.result()

    async def _do(self, offer: TaskOffer) -> None:
        """Do one task; whatever goes wrong becomes its outcome."""
        self._worker.begin(offer)
        config: Config = {"round_number": offer.round_number, **offer.config}
        try:
            match offer.kind:
                case TaskKind.GET_WEIGHTS:
                    facts: dict[str, Json] = {TRAINED_BEFORE: self._worker.was_trained}
                    weights = await self._worker.get_weights()
                    self._keep(offer.task_id, Update.raw(Trained(weights, metadata=facts), 0, is_own=False))
                case TaskKind.TRAIN:
                    model = await self._fetch(offer.model)
                    trained = await self._worker.train(model, config)
                    if self._spool is not None:
                        await self._spool.save(Spooled(offer, trained, model.version))
                    update = Update.raw(trained, model.version, is_own=not model.is_frozen)  # else others have it, too
                    self._keep(offer.task_id, await self._smaller(offer, update, model))
                case TaskKind.EVALUATE:
                    model = await self._fetch(offer.model)
                    said = await self._worker.evaluate(model, config)
                    self._carry_out(self._part.reported(Evaluated(offer.task_id, said.metrics, said.contributors)))
        except Exception as error:  # noqa: BLE001 - it is the user's code
            text = text_of(error)
            self._failures.tell(self._id, offer.kind, f" in round {offer.round_number}", error, text)
            self._carry_out(self._part.reported(Failed(offer.task_id, type(error).__name__, text)))

    async def _smaller(self, offer: TaskOffer, update: Update, base: Model) -> Update:
        """Code an update as the controller would have it; what it was made of is not needed any more then."""
        assert self._joined is not None
        if (codec := self._joined.update_codec) == RAW:
            return update
        federation_id = offer.model.federation_id
        smaller = await aside(effort(base.manifest), self._shrinking.smaller, update, codec, federation_id, base)
        if smaller is not update:
            self._recycle(update)
        return smaller

    def _keep(self, task_id: TaskId, update: Update) -> None:
        if not self._part.holds(task_id):  # it was dropped meanwhile
            return
        self._updates[task_id] = update
        self._carry_out(self._part.trained(task_id))

    # --- updates ---------------------------------------------------------------------------------------------------

    async def _push_all(self) -> None:
        """Send updates, one after another."""
        while True:
            task_id = await self._pushes.get()
            update = self._updates.get(task_id)
            if update is not None and self._part.holds(task_id):
                await self._at("push", task_id, self._push(self._part.offer_of(task_id), update))
                if task_id not in self._updates:  # it was settled before its answer came
                    self._recycle(update)

    async def _push(self, offer: TaskOffer, update: Update) -> None:
        """Send an update until the controller has answered."""
        header = update.header(offer)
        try:
            reply = await self._insist(lambda token: self._link.train_done(token, header, update.model))
        except UnknownFederation as error:
            reply = UpdateReply(Outcome.CANCELLED, str(error))
        except Exception as error:
            logger.exception("%s could not send the update of round %d", self._id, offer.round_number)
            self._carry_out(self._part.reported(Failed(offer.task_id, type(error).__name__, text_of(error))))
            return
        if reply.outcome is Outcome.REFUSED:
            logger.warning("%s: the update of round %d does not count: %s", self._id, offer.round_number, reply.reason)
        self._carry_out(self._part.answered(offer.task_id, reply))

    # --- models ----------------------------------------------------------------------------------------------------

    async def _fetch(self, ref: ModelRef) -> Model:
        """Get a global model, from the controller unless it is the one that was fetched last.

        Without rounds, what the controller gives may be newer than what the task says.
        """
        assert self._joined is not None
        codec = self._joined.download_codec
        model = await self._received(ref, codec if codec in DOWNLOAD_CODECS else RAW)
        if self._has_weights_of != ref.federation_id:
            await self._worker.set_weights(model)
            self._has_weights_of = ref.federation_id
        return model

    async def _received(self, ref: ModelRef, codec: str, patience_s: float | None = None) -> Model:
        """Receive a model that is not here, or not as it is, in the memory of the one before."""
        if self._model is None or self._model[0] != ref or self._model[1] not in (codec, RAW):
            again = None if self._model is None else self._model[2].buffer
            self._model = None

            async def pull(token: Token) -> Model:
                assert self._joined is not None
                most = self._joined.max_model_bytes
                return await self._link.fetch_model(token, ref, most, again, self._heard, codec=codec)

            model = await self._insist(pull, patience_s)
            self._model = ModelRef(ref.federation_id, model.version), codec, model
        return self._model[2]

    async def _part_ways(self, farewell: Farewell) -> bool:
        """Take over the final model, and say goodbye if the controller ends; say whether it does for good.

        A controller that is gone by now is not waited for long.
        """
        if farewell.then is Afterwards.RETURN:
            logger.info("%s waits for %s to be started again: %s", self._id, self._link.address, farewell.reason)
            return False
        try:
            if farewell.model is not None and not self._worker.is_given_up:
                await self._worker.take_final(await self._received(farewell.model, RAW, GOODBYE_S), farewell.then)
        except MetisError as error:
            logger.warning("%s could not get the final model: %s", self._id, error)
        except Exception:  # the user's set_weights may raise anything
            logger.exception("%s failed to take over the final model", self._id)
        if farewell.then is Afterwards.STAY:
            logger.info("%s waits for the next federation: %s", self._id, farewell.reason)
            self._model = self._has_weights_of = None
            return False
        await self.leave()
        logger.info("%s left %s: %s", self._id, self._link.address, farewell.reason)
        return True

    async def leave(self) -> None:
        """Say goodbye, if there is somebody to say it to."""
        self._is_leaving = True
        with suppress(MetisError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                if self._joined is not None:
                    await self._link.leave(self._joined.token)

    # --- insisting -------------------------------------------------------------------------------------------------

    async def _insist(self, call: Callable[[Token], Awaitable[T]], patience_s: float | None = None) -> T:
        """Call the controller until it answers; broken connections are waited out, each for so long if it is said."""

        async def attempt() -> T:
            if not self._is_connected.is_set():
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
