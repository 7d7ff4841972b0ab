"""The controller: open it, and it serves until a driver shuts it down."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

from metisfl_async.controller.crowd import Crowd
from metisfl_async.controller.exchange import Exchange
from metisfl_async.controller.job import Job
from metisfl_async.controller.jobs import Jobs
from metisfl_async.controller.registry import Registry
from metisfl_async.controller.service import Service
from metisfl_async.controller.snapshot import Snapshot
from metisfl_async.controller.threads import Threads
from metisfl_async.controller.watchdog import Watchdog
from metisfl_async.core.config import ClientParams, ControllerConfig, ModelStoreConfig, ServerParams
from metisfl_async.core.errors import ConfigError, UnexpectedMessage
from metisfl_async.core.ids import FederationId
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.durable import check_durable
from metisfl_async.core.strategies.strategies import Strategies
from metisfl_async.store.base import GLOBAL, ModelStore
from metisfl_async.store.by_name import new_store
from metisfl_async.store.event_log import EventLog, EventStream
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import LATE_S, end_all, first_of, to_the_end
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.grpc_server import GrpcServer
from metisfl_async.transport.memory import MemoryLink

__all__ = ["Controller", "Parts"]

logger = logging.getLogger(__name__)

GRACE_S = 2.0  #: for calls under way when the controller closes


class Parts(NamedTuple):
    """What an open controller is made of."""

    service: Service
    registry: Registry
    store: ModelStore
    server: GrpcServer | None
    main: asyncio.Task[None]
    jobs: Jobs

    @property
    def job(self) -> Job:
        """The federation that runs, or ran last."""
        assert self.jobs.current is not None
        return self.jobs.current


def _where(value: object) -> str:
    """Say where it belongs, if it is another one's argument."""
    places = {
        "server_params": ServerParams,
        "controller_config": ControllerConfig,
        "model_store_config": ModelStoreConfig,
    }
    name = next((name for name, kind in places.items() if isinstance(value, kind)), None)
    return f"; a {type(value).__name__} is given as {name}=..." if name is not None else ""


class Controller:
    """Coordinates one federation.

    Use it as an async context manager; inside, it listens. `serve` waits until a driver has shut it down::

        async with Controller(server_params=ServerParams(port=50051)) as controller:
            await controller.serve()

    Parameters
    ----------
    server_params : ServerParams, optional
        Where to listen; port 0 takes any free one, and `address` says which. Without them there is no port, and the
        controller can be reached in this process only.
    controller_config : ControllerConfig, optional
    model_store_config : ModelStoreConfig, optional
        Where models are kept. While Redis cannot be reached, opening waits for it.
    reflection : bool
        Also serve ``grpc.reflection``, for tools such as grpcurl. The standard health service is always there.
    resume : bool
        Go on with the federation in the model store that was not finished when its controller died; if there is none,
        wait for a driver as usual. The model store must outlive a controller: Disk, or Redis with a `key_prefix`.
    """

    def __init__(
        self,
        server_params: ServerParams | None = None,
        controller_config: ControllerConfig | None = None,
        model_store_config: ModelStoreConfig | None = None,
        *,
        reflection: bool = False,
        resume: bool = False,
    ) -> None:
        for name, value, kind in (
            ("server_params", server_params, ServerParams),
            ("controller_config", controller_config, ControllerConfig),
            ("model_store_config", model_store_config, ModelStoreConfig),
        ):
            if value is not None and not isinstance(value, kind):
                raise ConfigError(name, value, f"a {kind.__name__}, or None{_where(value)}")
        if reflection and server_params is None:
            raise ConfigError("reflection", reflection, "False, or give server_params: there is no port")
        if server_params is not None:
            server_params.check_safe()
        self.server_params = server_params
        self.controller_config = controller_config or ControllerConfig()
        if self.controller_config.learners and server_params is None:
            allowed = "empty, or give server_params: learners that listen fetch the model from the controller's port"
            raise ConfigError("learners", self.controller_config.learners, allowed)
        self.model_store_config = model_store_config or ModelStoreConfig()
        if resume and not self.model_store_config.is_durable:
            allowed = "False, or use a model store that outlives the controller: Disk, or Redis with a key_prefix"
            raise ConfigError("resume", resume, allowed)
        if self.model_store_config.is_durable:
            check_durable(self.controller_config, self.model_store_config)
        self._reflection, self.resume = reflection, resume
        self._exchange: Exchange | None = None  # by which it is led, if it is a relay's
        self._parts: Parts | None = None
        self._is_opening = False

    async def __aenter__(self) -> Self:
        if self._parts is not None or self._is_opening:
            raise UnexpectedMessage("the controller is open already")
        self._is_opening = True
        try:
            self._parts = await self._make_parts()
        finally:
            self._is_opening = False
        return self

    async def _make_parts(self) -> Parts:
        config, clock = self.controller_config, asyncio.get_running_loop().time
        strategies, store_config = Strategies(config), self.model_store_config
        if store_config.is_durable and store_config.lineage_length:  # the rule may need more models than users do
            length = max(store_config.lineage_length, strategies.rule.num_models)
            store_config = replace(store_config, lineage_length=length)
        registry = Registry(clock, config.heartbeat_secs, has_relays=config.max_relayed_learners > 0)
        store, threads = new_store(store_config), Threads()

        exchange = self._exchange  # what works for a controller does not keep one that is dropped

        def new_job(federation_id: FederationId) -> Job:
            return Job(
                federation_id,
                config,
                store_config,
                registry=registry,
                store=store,
                threads=threads,
                clock=clock,
                exchange=exchange,
            )

        jobs = Jobs(config, registry, new_job)
        service = Service(
            config,
            registry,
            jobs,
            threads,
            clock=clock,
            server_params=self.server_params,
            is_led=exchange is not None,
        )
        async with AsyncExitStack() as undo:
            undo.push_async_callback(lambda: to_the_end(store.close()))
            undo.callback(threads.close)
            undo.callback(jobs.drop)  # what goes on has timers
            await store.open()
            await self._resume_or_refuse(store, jobs)
            server: GrpcServer | None = None
            if self.server_params is not None:
                server = GrpcServer(service, self.server_params, reflection=self._reflection)
                await server.start()
            main = asyncio.create_task(_run(service, jobs, registry, config, threads), name="controller")
            undo.pop_all()
        return Parts(service, registry, store, server, main, jobs)

    async def _resume_or_refuse(self, store: ModelStore, jobs: Jobs) -> None:
        """Go on with an unfinished federation, if that is asked for."""
        unfinished = await store.unfinished()
        if unfinished is None:
            return
        if not self.resume:
            allowed = (
                f"True, to go on with federation {unfinished}, which the model store holds and which is not finished "
                "(on the command line, --resume); or, to begin a new one, another directory or key_prefix"
            )
            raise ConfigError("resume", False, allowed)
        await jobs.resume(FederationId(unfinished))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_open(self) -> bool:
        return self._parts is not None

    @property
    def client_params(self) -> ClientParams:
        """How to dial this controller from the same machine."""
        server = self._open.server
        if server is None or self.server_params is None:
            raise ConfigError("server_params", None, "given, for a controller that is to be dialled")
        params = self.server_params.client_params(server.port)
        return replace(params, max_model_bytes=self.controller_config.max_model_bytes)

    @property
    def address(self) -> str:
        """Where it can be reached: ``host:port``, or "in this process"."""
        return self.client_params.address if self._open.server is not None else "in this process"

    async def serve(self) -> None:
        """Wait until a driver has shut the controller down; a bug in the controller is raised here."""
        await asyncio.shield(self._open.main)

    async def lineage(self, learner_id: str | None = None) -> list[Model]:
        """Give the kept models, oldest first; `ModelStoreConfig.lineage_length` says how many they are.

        Parameters
        ----------
        learner_id : str, optional
            Whose updates, each with the version of the global model that it was trained from. None = the global models.

        Raises
        ------
        ConfigError
            If a learner's are asked for, and learners' updates are not kept.
        """
        parts = self._open
        keeps_updates = Strategies(self.controller_config).keeps_updates or self.model_store_config.keep_local_models
        if learner_id is not None and not keeps_updates:
            allowed = "True, in the controller's ModelStoreConfig, to ask for a learner's models"
            raise ConfigError("keep_local_models", False, allowed)
        owner = GLOBAL if learner_id is None else learner_id
        kept = [stored.model for stored in await parts.store.lineage(owner)]
        return kept[-self.model_store_config.lineage_length :]

    def snapshot(self) -> Snapshot:
        """Say how the controller stands at this moment: who is connected, what is awaited, and who waits."""
        return self._open.service.snapshot()

    def events(self) -> EventStream:
        """Follow the current federation: what happened in it so far, then each event, until it ends; none without one.

        Unlike a driver, whoever follows it here does not keep it going.
        """
        job = self._open.jobs.current
        if job is not None:
            return job.events.follow()
        nothing = EventLog()
        nothing.close()
        return nothing.follow()

    def longest_silences_ms(self) -> dict[str, float]:
        """Say for each present learner the longest time between two signs of life, in milliseconds."""
        return {member.id: member.longest_silence_s * 1e3 for member in self._open.registry}

    def connect(self) -> ControllerLink:
        """Make a link to this controller: over its port, if it has one that asks for no credentials, else in memory."""
        parts, params = self._open, self.server_params
        if params is None or params.asks_for_credentials:  # this process may do everything
            return MemoryLink(parts.service)
        return GrpcLink(self.client_params)

    async def abort(self) -> None:
        """End as if the process were killed: nobody is told, and nothing more is saved. For tests."""
        parts, self._parts = self._parts, None
        if parts is not None:
            await to_the_end(_abort(parts))

    def crowd(self) -> Crowd:
        """Make room for learners of this process that have no connections of their own."""
        parts = self._open
        return Crowd(parts.registry, parts.jobs, parts.service.farewells, parts.service.questions)

    async def close(self) -> None:
        """Stop listening and end everything; may be called twice."""
        parts, self._parts = self._parts, None
        if parts is not None:
            await to_the_end(_close(parts))

    @property
    def _open(self) -> Parts:
        if self._parts is None:
            raise UnexpectedMessage("the controller is not open; use `async with Controller(...) as controller:`")
        return self._parts


async def _close(parts: Parts) -> None:
    await parts.service.say_whether_it_returns(parts.store.is_durable)
    parts.service.closing.set()
    try:
        if parts.server is not None:
            await parts.server.stop(GRACE_S)
    finally:
        parts.service.hang_up()
        try:
            await parts.service.listeners.close()
            await end_all([parts.main])
        finally:
            await parts.store.close()
    if not parts.main.cancelled() and (bug := parts.main.exception()) is not None:
        raise bug  # a second `result()` would forget where it comes from


async def _abort(parts: Parts) -> None:
    parts.main.cancel()
    if parts.server is not None:
        await parts.server.stop(0)
    parts.service.hang_up()
    await parts.service.listeners.close()
    await asyncio.wait([parts.main])
    await parts.store.close()


async def _run(service: Service, jobs: Jobs, registry: Registry, config: ControllerConfig, threads: Threads) -> None:
    """Aggregate, and watch leases and open files, until the controller is closed, or has a bug."""

    async def until_closed() -> None:
        await service.closing.wait()

    async def watch() -> None:
        clock = asyncio.get_running_loop().time
        while True:
            pause_s, asleep_at = config.lease_secs / 8, clock()
            await asyncio.sleep(pause_s)
            if (blocked_s := clock() - asleep_at - pause_s) > LATE_S:
                # The process was stopped, or somebody blocked the loop: what learners sent lies in the sockets.
                registry.forgive(blocked_s)
                continue
            for member in registry.silent(config.lease_secs):
                service.conversations.forget(member, f"silent for lease_secs={config.lease_secs:g}")
            service.watch_files()

    is_virtual = getattr(asyncio.get_running_loop(), "is_virtual", False)  # see `metisfl_async.testing.VirtualLoop`
    try:
        async with nullcontext() if is_virtual else Watchdog():
            await first_of(until_closed(), watch(), service.without_driver(), service.conversations.broken, jobs.run())
    finally:
        threads.close()
