"""The border between the parties: what a controller serves, and how a learner or a driver reaches it.

`ControllerService` is what the controller implements. `ControllerLink` is the same seen from the other side, over gRPC
or in memory; whoever holds a link need not know which. `LearnerService` is what a learner implements that listens.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from metisfl_async.codec.frame import Frame, Header
from metisfl_async.codec.pace import Pace
from metisfl_async.codec.publication import Publication
from metisfl_async.core.access import Caller, Identity
from metisfl_async.core.codecs import RAW
from metisfl_async.core.federation.events import Event, Told
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

__all__ = ["Closable", "ControllerLink", "ControllerService", "Download", "LearnerLink", "LearnerService", "Stream"]

In_co = TypeVar("In_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)


class Stream(Protocol[In_co, Out_contra]):
    """One end of a conversation."""

    async def send(self, message: Out_contra) -> None:
        """Send a message; `TransportError` if the other side is gone."""
        ...

    async def receive(self) -> In_co | None:
        """Wait for a message; None once the other side has ended."""
        ...


class Closable(Protocol[In_co]):
    """An asynchronous iterator that is closed by whoever does not follow it to its end, with `contextlib.aclosing`."""

    def __aiter__(self) -> AsyncIterator[In_co]: ...
    async def __anext__(self) -> In_co: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Download:
    """A global model for one reader, at its `turn` and `pace`; `moved` is told how many bytes of it went out.

    Which one is sent is chosen with `begin`, once its turn has come: whoever waits keeps no model in memory.
    """

    begin: Callable[[], Publication]
    moved: Callable[[int], object]
    turn: AbstractAsyncContextManager[object] = field(default_factory=nullcontext)
    pace: Pace = field(default_factory=Pace)


class ControllerService(Protocol):
    """What a controller serves; each call says who calls, and whoever may not call it is not let through."""

    async def join(self, caller: Caller, request: JoinRequest) -> JoinReply: ...
    async def tasks(self, caller: Caller, stream: Stream[LearnerMessage, Sequence[ControllerMessage]]) -> None:
        """Converse with a learner; what it is told together, it is told in one message."""
        ...

    async def report(self, caller: Caller, token: Token, message: LearnerMessage) -> None: ...
    async def fetch_model(self, caller: Caller, token: Token, model: ModelRef, codec: str = RAW) -> Download: ...
    async def train_done(
        self, caller: Caller, token: Token, frames: AsyncIterator[Frame], go_ahead: Callable[[], Awaitable[None]]
    ) -> UpdateReply:
        """Take in an update; `go_ahead` is awaited after its header, once there is room for the rest."""
        ...

    async def leave(self, caller: Caller, token: Token) -> None: ...
    async def set_initial_model(self, caller: Caller, frames: AsyncIterator[Frame]) -> None: ...
    async def start_training(self, caller: Caller, request: StartRequest) -> None: ...
    async def status(self, caller: Caller) -> Status: ...
    def watch_events(
        self, caller: Caller, federation_id: FederationId, seen: int, run: str
    ) -> AsyncGenerator[list[Told], None]:
        """Give all events, those that are there together; of the same run, not the first ones that were seen."""
        ...

    def get_logs(self, caller: Caller, federation_id: FederationId) -> AsyncGenerator[RoundRecord, None]: ...
    async def get_model(self, caller: Caller, federation_id: FederationId, best: bool = False) -> Download: ...
    def ask(self, caller: Caller, request: AskRequest) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
        """Ask the connected learners, and give one answer for each, as they come."""
        ...

    async def evaluated(self, caller: Caller, federation_id: FederationId, report: CentralEvaluation) -> None:
        """Take what the driver makes of a global model."""
        ...

    async def stop_training(self, caller: Caller, federation_id: FederationId, reason: str) -> None: ...
    async def shut_down(self, caller: Caller, federation_id: FederationId, keep_running: bool) -> None: ...

    def revoked(self, identity: Identity) -> None:
        """Take note that somebody may do nothing any more."""
        ...


class LearnerLink(Protocol):
    """How a learner reaches its controller. Every method raises `TransportError` when it cannot be reached."""

    address: str

    async def join(self, request: JoinRequest) -> JoinReply: ...
    def tasks(self) -> AbstractAsyncContextManager[Stream[Sequence[ControllerMessage], LearnerMessage]]: ...
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
        """Get a global model; `heard` is called for every chunk that comes. It may travel in this codec.

        It is read-only if others read it as well. If not, the buffer `again` may be used for it.
        """
        ...

    async def train_done(self, token: Token, header: Header, update: Model) -> UpdateReply: ...
    async def leave(self, token: Token) -> None: ...


class ControllerLink(LearnerLink, Protocol):
    """How anybody reaches a controller: a learner that dials, or a driver."""

    @property
    def connection(self) -> object:
        """Something that names the connection that the next call uses."""
        ...

    async def renew(self, connection: object | None = None) -> None:
        """Make the connection anew: it may look good, and be none. One that was dropped already changes nothing."""
        ...

    async def status(self) -> Status: ...
    async def set_initial_model(self, federation_id: FederationId, model: Model) -> None: ...
    async def start_training(self, request: StartRequest) -> None: ...
    def watch_events(self, federation_id: FederationId, seen: int = 0, run: str = "") -> Closable[Event]: ...
    def get_logs(self, federation_id: FederationId) -> Closable[RoundRecord]: ...
    async def get_model(
        self, federation_id: FederationId, heard: Callable[[], object] = ..., *, best: bool = False
    ) -> Model:
        """Get the latest global model, or the best one, in memory of the caller's own; `heard` is called by chunk."""
        ...

    def ask(self, request: AskRequest) -> Closable[tuple[LearnerId, Answer]]: ...
    async def evaluated(self, federation_id: FederationId, report: CentralEvaluation) -> None: ...
    async def stop_training(self, federation_id: FederationId, reason: str) -> None: ...
    async def shut_down(self, federation_id: FederationId, keep_running: bool = False) -> None: ...
    async def close(self) -> None: ...


class LearnerService(Protocol):
    """What a learner that listens serves, to the controller that it has joined and nobody else."""

    async def confirm_join(self, secret: str) -> None: ...
    async def deliver(self, token: Token, number: int, messages: Sequence[ControllerMessage]) -> None:
        """Take in what the controller says, once for each number; return when it has been dealt with."""
        ...

    async def get_model(self, token: Token) -> Model: ...
    async def set_initial_model(self, token: Token, frames: AsyncIterator[Frame]) -> None: ...
