"""A party's way to a controller of this process, over a line on which things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from metisfl_async.codec.frame import Header
from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import ConnectionLost, MetisError, PeerTimeout
from metisfl_async.core.federation.events import Event, FederationFinished
from metisfl_async.core.federation.inputs import CentralEvaluation
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, Token
from metisfl_async.core.messages import (
    Answer,
    AskRequest,
    ControllerMessage,
    JoinReply,
    JoinRequest,
    LearnerMessage,
    StartRequest,
    Status,
    UpdateReply,
)
from metisfl_async.core.model import Bytes, Model
from metisfl_async.testing.faults import ADDRESS, Call, Faults
from metisfl_async.transport.base import Closable, ControllerLink, Stream
from metisfl_async.transport.concurrency import end_all, first_of

__all__ = ["Wire"]

T = TypeVar("T")
Passing: TypeAlias = Callable[[int], Awaitable[object]]
ANSWER_S = 30.0  #: for calls that are answered at once, as over gRPC
PIECE_BYTES = 2**20
CUT = "the connection was cut"


class Wire:
    """A `ControllerLink` to whatever controller `dial` reaches; `dial` raises `ConnectionLost` while there is none."""

    def __init__(self, faults: Faults, dial: Callable[[Passing], ControllerLink]) -> None:
        self.address = ADDRESS
        self.faults = faults
        self._dial = dial
        self._under_way: set[asyncio.Task[Any]] = set()  # calls, the Tasks stream among them

    def cut(self) -> None:
        """Break all that is under way."""
        for task in self._under_way:
            task.cancel()

    async def close(self) -> None:
        await end_all(self._under_way)

    @property
    def connection(self) -> object:
        return self

    async def renew(self, connection: object | None = None) -> None:
        """Do nothing: each call dials."""

    # --- a learner's calls -----------------------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> JoinReply:
        return await self._ask("join", lambda link: link.join(request))

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Stream[Sequence[ControllerMessage], LearnerMessage]]:
        conversation = _Conversation(self.faults)
        task = self._begin(conversation.run(self._dial(_free)))
        try:
            yield conversation
        finally:
            if self.faults.is_silent:  # the other side hears of the end when something passes again
                self._begin(self._hang_up(task))
            else:
                await end_all([task])

    async def fetch_model(
        self,
        token: Token,
        model: ModelRef,
        max_model_bytes: int,
        again: Bytes | None,
        heard: Callable[[], object],
        *,
        codec: str = RAW,
    ) -> Model:
        async def fetch(link: ControllerLink) -> Model:
            fetched = await link.fetch_model(token, model, max_model_bytes, again, heard, codec=codec)
            await self._receive(fetched, heard)
            return fetched

        return await self._call("download", fetch)

    async def train_done(self, token: Token, header: Header, update: Model) -> UpdateReply:
        return await self._call(
            "upload", lambda link: link.train_done(token, header, update), self._passing(update.manifest.size_bytes)
        )

    async def leave(self, token: Token) -> None:
        await self._ask("other", lambda link: link.leave(token))

    # --- a driver's ------------------------------------------------------------------------------------------------

    async def status(self) -> Status:
        return await self._ask("other", lambda link: link.status())

    async def set_initial_model(self, federation_id: FederationId, model: Model) -> None:
        passing = self._passing(model.manifest.size_bytes)
        await self._call("upload", lambda link: link.set_initial_model(federation_id, model), passing)

    async def start_training(self, request: StartRequest) -> None:
        await self._ask("other", lambda link: link.start_training(request))

    def watch_events(self, federation_id: FederationId, seen: int = 0, run: str = "") -> Closable[Event]:
        async def events(link: ControllerLink) -> AsyncGenerator[Event, None]:
            event: Event | None = None
            async with aclosing(link.watch_events(federation_id, seen, run)) as told:
                async for event in told:
                    yield event
            if not isinstance(event, FederationFinished):
                raise ConnectionLost(ADDRESS, "it was closed")

        return self._stream(events)

    def get_logs(self, federation_id: FederationId) -> Closable[RoundRecord]:
        async def records(link: ControllerLink) -> AsyncGenerator[RoundRecord, None]:
            async with aclosing(link.get_logs(federation_id)) as told:
                async for record in told:
                    yield record

        return self._stream(records)

    def ask(self, request: AskRequest) -> Closable[tuple[LearnerId, Answer]]:
        async def answers(link: ControllerLink) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
            async with aclosing(link.ask(request)) as told:
                async for answer in told:
                    yield answer

        return self._stream(answers)

    async def get_model(
        self, federation_id: FederationId, heard: Callable[[], object] = lambda: None, *, best: bool = False
    ) -> Model:
        async def get(link: ControllerLink) -> Model:
            model = await link.get_model(federation_id, best=best)
            await self._receive(model, heard)
            return model

        return await self._call("download", get)

    async def evaluated(self, federation_id: FederationId, report: CentralEvaluation) -> None:
        await self._ask("other", lambda link: link.evaluated(federation_id, report))

    async def stop_training(self, federation_id: FederationId, reason: str) -> None:
        await self._ask("other", lambda link: link.stop_training(federation_id, reason))

    async def shut_down(self, federation_id: FederationId, keep_running: bool = False) -> None:
        await self._call("other", lambda link: link.shut_down(federation_id, keep_running))

    # --- how they pass ---------------------------------------------------------------------------------------------

    async def _ask(self, what: Call, call: Callable[[ControllerLink], Coroutine[Any, Any, T]]) -> T:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._call(what, call)
        except TimeoutError:
            raise PeerTimeout(ADDRESS, f"it did not answer within {ANSWER_S:g} s") from None

    async def _call(
        self, what: Call, call: Callable[[ControllerLink], Coroutine[Any, Any, T]], passing: Passing | None = None
    ) -> T:
        faults = self.faults

        async def there_and_back() -> T:
            await faults.travel()
            faults.lose(what, answer=False)
            if faults.doubles(what):
                await call(self._dial(passing or _free))
            answer = await call(self._dial(passing or _free))
            faults.lose(what, answer=True)
            await faults.travel()
            return answer

        task = self._begin(there_and_back())
        try:
            await asyncio.wait([task])
        finally:
            await end_all([task])
        if task.cancelled():
            raise ConnectionLost(ADDRESS, CUT)
        return task.result()

    async def _stream(self, begin: Callable[[ControllerLink], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        received: asyncio.Queue[tuple[T] | MetisError | None] = asyncio.Queue()

        async def receive() -> None:
            end: MetisError | None = ConnectionLost(ADDRESS, CUT)
            try:
                await self.faults.travel()
                async with aclosing(begin(self._dial(_free))) as items:
                    async for item in items:
                        await self.faults.hear()
                        received.put_nowait((item,))
                end = None
            except MetisError as error:
                end = error
            finally:
                received.put_nowait(end)

        task = self._begin(receive())
        try:
            while (item := await received.get()) is not None:
                if isinstance(item, MetisError):
                    raise item
                yield item[0]
        finally:
            await end_all([task])

    async def _hang_up(self, conversation: asyncio.Task[None]) -> None:
        await self.faults.hear()
        await end_all([conversation])

    def _begin(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(call, name=f"wire-{getattr(call, '__name__', '')}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    def _passing(self, size_bytes: int) -> Passing:
        """Make what is awaited before each piece of a model of this size that goes up."""
        passed = 0

        async def passing(piece_bytes: int) -> None:
            nonlocal passed
            passed = piece_bytes + (0 if passed >= size_bytes else passed)  # it may come twice
            self._cut_if_due("upload", passed / max(size_bytes, 1))
            await self.faults.carry(piece_bytes)

        return passing

    async def _receive(self, model: Model, heard: Callable[[], object]) -> None:
        """Take the time that a model takes down."""
        size = model.manifest.size_bytes
        for start in range(0, size, PIECE_BYTES):
            end = min(start + PIECE_BYTES, size)
            self._cut_if_due("download", end / size)
            await self.faults.carry(end - start)
            heard()

    def _cut_if_due(self, what: Call, share: float) -> None:
        if self.faults.cuts(what, share):
            self.faults.tell(f"is cut off during {what}")
            asyncio.get_running_loop().call_soon(self.cut)


class _Conversation:
    """A Tasks stream; `run` carries it until it ends, or is cut."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._up: asyncio.Queue[tuple[float, LearnerMessage]] = asyncio.Queue()
        self._down: asyncio.Queue[tuple[float, Sequence[ControllerMessage] | MetisError | None]] = asyncio.Queue()
        self._is_over = False

    async def run(self, link: ControllerLink) -> None:
        end: MetisError | None = ConnectionLost(ADDRESS, CUT)
        try:
            async with link.tasks() as stream:
                await first_of(self._send_all(stream), self._receive_all(stream))
            end = None
        except MetisError as error:
            end = error
        finally:
            self._is_over = True
            self._down.put_nowait((self._faults.arrival("down"), end))

    async def send(self, message: LearnerMessage) -> None:
        if self._is_over:
            raise ConnectionLost(ADDRESS, CUT)
        self._up.put_nowait((self._faults.arrival("up"), message))

    async def receive(self) -> Sequence[ControllerMessage] | None:
        at, messages = await self._down.get()
        await self._faults.arrive(at)
        if isinstance(messages, MetisError):
            raise messages
        return messages

    async def _send_all(self, stream: Stream[Sequence[ControllerMessage], LearnerMessage]) -> None:
        while True:
            at, message = await self._up.get()
            await self._faults.arrive(at)
            self._faults.lose("message", answer=False)
            await stream.send(message)

    async def _receive_all(self, stream: Stream[Sequence[ControllerMessage], LearnerMessage]) -> None:
        while (messages := await stream.receive()) is not None:
            self._faults.lose("message", answer=True)
            self._down.put_nowait((self._faults.arrival("down"), messages))


async def _free(_: int) -> None:
    """Let pass what takes no time."""
    await asyncio.sleep(0)
