"""Learners that listen: which may be dialled, and how they are told things without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from metisfl_async.controller.connection import OutboxConnection
from metisfl_async.core.allowance import Allowance
from metisfl_async.core.config import ClientParams, ServerParams
from metisfl_async.core.errors import (
    ConfigError,
    ConnectionLost,
    PeerTimeout,
    TransportError,
    UnexpectedMessage,
    UnknownLearner,
)
from metisfl_async.core.ids import Token
from metisfl_async.core.messages import (
    Accept,
    Afterwards,
    ControllerMessage,
    Farewell,
    Heartbeat,
    LearnerMessage,
    Settled,
    TaskOffer,
)
from metisfl_async.transport.concurrency import end_all, first_of
from metisfl_async.transport.grpc_learner import DialledLearner
from metisfl_async.transport.retry import insisting

__all__ = ["DialledConnection", "Listeners"]

MAX_DIALS = 128  #: at one time, so that a round of thousands does not need thousands of open files
MAX_CHECKS = 32  #: dials at one time because somebody wants to join, beside those
NAMING_S = 20.0  #: how long a learner is kept waiting for a driver that names it, before it is told to ask again
FAREWELL_S = 5.0  #: for reaching a learner at the end
SHOWN = 5  #: addresses in an error


class Listeners:
    """All learners that listen. Only addresses that the configuration or the driver named are ever dialled."""

    def __init__(
        self, named: Iterable[ClientParams], closing: asyncio.Event, server_params: ServerParams | None = None
    ) -> None:
        self._closing = closing
        self._own = server_params
        self._named = {params.address: self._with_own_pair(params) for params in named}
        self._are_all_named = asyncio.Event()
        self._dials, self._checks = asyncio.Semaphore(MAX_DIALS), asyncio.Semaphore(MAX_CHECKS)
        self._conversations: set[asyncio.Task[None]] = set()

    def begin(self, conversation: Coroutine[Any, Any, None], name: str) -> None:
        """Run a conversation until `close`."""
        task = asyncio.create_task(conversation, name=name)
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def close(self) -> None:
        await end_all(self._conversations)

    def name(self, learners: Iterable[ClientParams]) -> None:
        """Take in the addresses that the driver names; there will be no more."""
        for params in learners:
            self._named.setdefault(params.address, self._with_own_pair(params))
        self._are_all_named.set()

    def _with_own_pair(self, params: ClientParams) -> ClientParams:
        """Show our own certificate to a learner that may ask for one, unless another credential is given."""
        own = self._own
        if own is None or own.server_certificate is None or params.root_certificate is None:
            return params
        if params.certificate is not None or params.token is not None:
            return params
        return replace(params, certificate=own.server_certificate, private_key=own.private_key)

    async def check(self, address: str, secret: str) -> None:
        """Make sure that a learner that wants to join is the one that listens at an address that was named.

        Raises
        ------
        ConfigError
            If nobody named the address.
        ConnectionLost
            If a driver may still name it, or nobody can be reached there.
        """
        if address not in self._named:
            with suppress(TimeoutError):
                async with asyncio.timeout(NAMING_S):
                    await first_of(self._are_all_named.wait(), self._closing.wait())
        params = self._named.get(address)
        if params is None:
            if not self._are_all_named.is_set():
                raise ConnectionLost("controller", f"nobody has named a learner at {address} yet; a driver still may")
            raise ConfigError("the learner's address", address, f"those that were named: {self._listed()}")
        try:
            async with self._checks:
                await DialledLearner(params).confirm_join(secret)
        except UnknownLearner:
            raise UnexpectedMessage(f"another learner listens at {address}") from None
        except TransportError as error:
            raise ConnectionLost("controller", f"it cannot reach the learner at {address}: {error.reason}") from error

    def connection(self, address: str, token: Token, lease_s: float, unasked: Allowance) -> DialledConnection:
        return DialledConnection(DialledLearner(self._named[address]), token, lease_s, unasked, self._dials)

    def _listed(self) -> str:
        shown = list(self._named)[:SHOWN]
        more = len(self._named) - len(shown)
        listed = ", ".join(shown) + (f" and {more} more" if more else "") or "none"
        return f"{listed} (in ControllerConfig.learners, or in the learners of the DriverSession)"


class DialledConnection(OutboxConnection):
    """Tells one learner what there is to tell, dialling it each time; what it says comes in by `Service.report`."""

    def __init__(
        self, learner: DialledLearner, token: Token, lease_s: float, unasked: Allowance, dials: asyncio.Semaphore
    ) -> None:
        super().__init__(unasked)
        self._learner, self._token, self._lease_s, self._dials = learner, token, lease_s, dials
        self._is_ending, self._has_heard_the_end = asyncio.Event(), asyncio.Event()

    def send(self, message: ControllerMessage) -> None:
        """Queue a message, unless the answer to a report says the same."""
        if isinstance(message, Heartbeat | Settled):
            return
        super().send(message)
        if isinstance(message, Farewell) and message.then is not Afterwards.STAY:
            self._is_ending.set()

    async def run(self, on_message: Callable[[LearnerMessage], None]) -> None:
        """Deliver what is queued, in order, until `close` is called.

        A learner that cannot be reached is tried again for as long as a lease lasts. The answer to a task is its
        acceptance.
        """
        await first_of(self._deliver_all(on_message), self._closed, self._until_too_late())

    async def _deliver_all(self, on_message: Callable[[LearnerMessage], None]) -> None:
        number = 0
        while True:
            messages = await self.next()
            number += 1
            who, address = "the controller", self._learner.address
            await insisting(who, address, self._lease_s, self._deliver, number, messages)
            match messages[-1]:
                case TaskOffer(task_id):
                    on_message(Accept(task_id))
                case Farewell():
                    self._has_heard_the_end.set()

    async def _deliver(self, number: int, messages: Sequence[ControllerMessage]) -> None:
        try:
            async with self._dials:
                await self._learner.deliver(self._token, number, messages)
        except UnknownLearner:  # not to be tried again
            raise UnexpectedMessage(f"{self._learner.address} connects anew, or was started again") from None

    async def _until_too_late(self) -> None:
        """Do not wait for who is away at the end."""
        await self._is_ending.wait()
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._has_heard_the_end.wait()
        except TimeoutError:
            raise PeerTimeout(self._learner.address, f"could not be reached for {FAREWELL_S:g} s at the end") from None
        await asyncio.Event().wait()
