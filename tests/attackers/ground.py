"""Where attacks happen: a controller that asks for tokens, two honest learners, and whatever an attacker can reach."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc.aio
from federations import PATIENCE_S, Adds
from puppet import Puppet, dialled, weights

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.cli.tokens import add_tokens
from metisfl_async.core.access import Identity, Role
from metisfl_async.core.errors import MetisError
from metisfl_async.core.messages import TaskOffer
from metisfl_async.events import Event, LearnerJoined, LearnerLeft
from metisfl_async.transport.grpc_errors import ours
from metisfl_async.transport.grpc_options import CHANNEL_OPTIONS, SERVICE

__all__ = [
    "HONEST",
    "ROUNDS",
    "Attack",
    "Caller",
    "Insider",
    "Outside",
    "Seen",
    "beside",
    "tally",
    "tokens_in",
    "told",
    "unspoilt",
]

Attack: TypeAlias = Callable[["Outside"], Awaitable[str]]  #: gives what the attacker was told

T = TypeVar("T")
HONEST = ("honest-1", "honest-2")
ROUNDS = 3
DRIVER = Identity(Role.DRIVER, "driver")
WHO = [
    *(Identity(Role.LEARNER, name) for name in (*HONEST, "insider", "accomplice")),
    *(DRIVER, Identity(Role.DRIVER, "rival"), Identity(Role.OBSERVER, "observer")),
]


class Honest(Adds):
    """Trains its rounds, but the last one only when the attack is over."""

    def __init__(self, number: int, size: int, may_end: asyncio.Event) -> None:
        super().__init__(number, size)
        self._may_end = may_end

    async def train(self, parameters: list[Any], config: dict[str, Any]) -> Any:  # type: ignore[override]
        if len(self.configs) == ROUNDS - 1:
            await self._may_end.wait()
        return super().train(parameters, config)

    async def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> Any:  # type: ignore[override]
        return super().evaluate(parameters, config)


class Insider(Puppet):
    """A learner with a credential, and with a task once the federation has begun."""

    offer: TaskOffer

    async def leave(self) -> None:
        """Go for good; nobody waits for it any more."""
        with suppress(MetisError):  # it was sent away before
            await self.link.leave(self.token)

    async def until(self, kind: type[T]) -> T:
        """Read what it is told, up to a message of this kind."""
        while not isinstance(message := await self.next(), kind):
            assert message is not None
        return message

    def update(self, value: float, size: int, **metadata: Any) -> list[Any]:
        return self.frames(self.offer, weights(value, size), **metadata)

    async def pushed(self, *frames: Any) -> str:
        """Send an update; the answer, or the error."""
        try:
            return str((await self.push(frames)).outcome)
        except MetisError as error:
            return type(error).__name__


@dataclass
class Outside:
    """What an attacker has: an address, maybe credentials, and what stays open until the federation is over."""

    params: ClientParams
    secrets: Mapping[Identity, str]
    size: int
    left_open: AsyncExitStack
    insiders: list[Insider] = field(default_factory=list)

    def shown(self, who: str) -> ClientParams:
        """How somebody with a credential dials."""
        (secret,) = (secret for identity, secret in self.secrets.items() if identity.name == who)
        return replace(self.params, token=secret)

    async def caller(self, who: str = "", options: Sequence[tuple[str, Any]] = CHANNEL_OPTIONS) -> Caller:
        """Dial, with somebody's credential or without."""
        params = self.shown(who) if who else self.params
        channel = grpc.aio.insecure_channel(params.address, options=options)
        self.left_open.push_async_callback(channel.close)
        return Caller(channel, params.token)

    @property
    def insider(self) -> Insider:
        return self.insiders[0]


class Caller:
    """Calls methods with bytes of its own making, as any client may."""

    metadata: tuple[tuple[str, str], ...]

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self._channel = channel
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def begin(self, method: str, *requests: bytes, **options: Any) -> grpc.aio.StreamStreamCall:
        """Call, send all, and read nothing yet."""
        options = {"metadata": self.metadata} | options
        return self._channel.stream_stream(f"/{SERVICE}/{method}")(iter(requests), **options)

    async def answer(self, method: str, request: bytes) -> bytes:
        """Call a method with one request and one answer."""
        return bytes(await self._channel.unary_unary(f"/{SERVICE}/{method}")(request, metadata=self.metadata))

    async def told(self, method: str, *requests: bytes, **options: Any) -> str:
        """Send all, and read to the end; the status, and the name of the error."""
        return await unspoilt(lambda: told(self.begin(method, *requests, **options)))


async def unspoilt(attempt: Callable[[], Awaitable[str]]) -> str:
    """Try until the answer is the controller's: gRPC's client has INTERNAL in its place where a write met it."""
    while "INTERNAL" in (answer := await attempt()):
        pass
    return answer


async def told(call: grpc.aio.StreamStreamCall) -> str:
    """Read a call to its end."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as failed:
        with suppress(MetisError):
            try:
                with ours(""):
                    raise failed
            except MetisError as error:
                return f"{failed.code().name} {type(error).__name__}"
    return str((await call.code()).name)


def tally(answers: Iterable[str]) -> str:
    """Put the same answers together."""
    return ", ".join(f"{count} x {answer}" if count > 1 else answer for answer, count in Counter(answers).items())


@dataclass(frozen=True)
class Seen:
    """What became of a federation beside an attack."""

    told: str
    result: FederationResult
    events: list[Event]

    @property
    def bits(self) -> list[bytes]:
        """The final model, to the bit."""
        assert self.result.final_model is not None
        return [array.tobytes() for array in self.result.final_model]

    def comings_and_goings(self) -> list[tuple[str, str]]:
        """Of honest learners, before the end."""
        return [
            (type(event).__name__, event.learner)
            for event in self.events
            if isinstance(event, LearnerJoined | LearnerLeft) and event.learner in HONEST
        ]


def tokens_in(folder: Path) -> tuple[Path, dict[Identity, str]]:
    """Make a controller's file of tokens; it, and the tokens."""
    file = folder / "tokens.txt"
    return file, dict(add_tokens(file, WHO))


async def beside(
    attack: Attack,
    tokens: tuple[Path, Mapping[Identity, str]],
    config: ControllerConfig,
    *,
    size: int = 100,
    insiders: Sequence[str] = (),
) -> Seen:
    """Run a federation to its end while somebody attacks it, and for as long as what they left open stays so."""
    file, secrets = tokens
    may_end = asyncio.Event()
    async with (
        asyncio.timeout(PATIENCE_S),
        AsyncExitStack() as left_open,
        Controller(ServerParams(tokens=file), config) as controller,
    ):
        outside = Outside(controller.client_params, secrets, size, left_open)
        for name in insiders:
            connected = await left_open.enter_async_context(dialled(outside.shown(name), name))
            outside.insiders.append(Insider(connected.link, connected.token, connected.stream))
        honest = [
            asyncio.create_task(run_learner(Honest(number + 1, size, may_end), outside.shown(name)))
            for number, name in enumerate(HONEST)
        ]
        session = DriverSession(
            outside.shown(DRIVER.name),
            len(honest) + len(insiders),
            TerminationSignals(federation_rounds=ROUNDS),
            initial_weights=weights(0, size),
        )
        running = asyncio.create_task(session.run())
        for insider in outside.insiders:
            insider.offer = await insider.task()
        answers = await attack(outside)
        for insider in outside.insiders:
            await insider.leave()
        may_end.set()
        result = await running
        await asyncio.gather(*honest)
        await controller.serve()
        events = [event async for event in session.events()]
    return Seen(answers, result, events)
