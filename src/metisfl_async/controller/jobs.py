"""Which federation a controller runs: one at a time, one after another, for the same connected learners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from metisfl_async.controller.job import Job
from metisfl_async.controller.registry import Registry
from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import ConnectionLost, MetisError, UnexpectedMessage, UnknownFederation
from metisfl_async.core.federation.inputs import Input, Joined
from metisfl_async.core.ids import NO_FEDERATION, FederationId
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Model
from metisfl_async.transport.concurrency import end_all, first_of

__all__ = ["Jobs"]


class Jobs:
    """The federation that runs, or the last one; the next one takes its place."""

    def __init__(self, config: ControllerConfig, registry: Registry, new_job: Callable[[FederationId], Job]) -> None:
        self.current: Job | None = None
        self._config, self._registry, self._new_job = config, registry, new_job
        self._first: tuple[str, Model] | None = None  # first weights of a federation that is to be started
        self._changed = asyncio.Event()
        self._starting = asyncio.Lock()
        self._begun: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def id(self) -> FederationId:
        """Which federation runs, or ran last."""
        return self.current.id if self.current is not None else NO_FEDERATION

    def of(self, federation_id: str) -> Job:
        """Find the federation that is meant.

        Raises
        ------
        UnknownFederation
            If it is not the one that runs here, or ran last.
        """
        if self.current is None or self.current.id != federation_id:
            raise UnknownFederation(federation_id, self.id)
        return self.current

    def post(self, happened: Input) -> None:
        """Tell the federation, if there is one."""
        if self.current is not None:
            self.current.post(happened)

    def check_awaits(self, federation_id: str) -> None:
        """Refuse first weights while no federation can be started."""
        if self.current is not None and self.current.id == federation_id:
            raise UnexpectedMessage("the federation was started before, and has its first weights")
        if self.current is not None and not self.current.is_over:
            raise UnexpectedMessage(f"federation {self.id} runs here; first weights are taken before one starts")

    def give(self, federation_id: str, model: Model) -> None:
        """Keep first weights for a federation that is to be started."""
        self.check_awaits(federation_id)
        self._first = federation_id, model

    async def start(self, request: StartRequest) -> None:
        """Start a federation; return once it would survive us. A request that comes again changes nothing.

        What is being written goes on where the call ends early: the next one finds it, and the store has no half of it.
        """
        async with self._starting:  # a second request is not told that it is started while that is being written
            await self._until_written()
            if self._is_closed:
                raise ConnectionLost("controller", "it is closing")
            self._begun = asyncio.create_task(self._start(request), name="start-federation")
            self._begun.add_done_callback(lambda begun: begun.cancelled() or begun.exception())  # it may be nobody's
            await asyncio.shield(self._begun)

    async def until_begun(self, federation_id: str) -> None:
        """Wait for a federation that is being started and is to end; what fails of its store is not tried again."""
        if self.current is not None and self.current.id == federation_id and not self.current.has_begun:
            self.current.keeper.hurry()
        async with self._starting:
            await self._until_written()

    async def _until_written(self) -> None:
        if self._begun is not None:
            await asyncio.wait([self._begun])

    async def _start(self, request: StartRequest) -> None:
        if self.current is not None:
            if self.current.id == request.federation_id:
                return
            if not self.current.is_over:
                raise UnexpectedMessage(
                    f"federation {self.id} runs here; one ends before the next one starts. To go on with it: "
                    "run(resume=True); to follow or stop it: DriverSession.attach"
                )
        self._config.check_signals(request.signals, evaluates=request.evaluates)
        model = None
        if request.has_model:
            if self._first is None or self._first[0] != request.federation_id:
                raise UnexpectedMessage("the first weights are not here: was the controller started again meanwhile?")
            model = self._first[1]
        job, before = self._new_job(request.federation_id), self.current
        self.current, self._first = job, None
        self._changed.set()
        try:
            await job.begin(request, model)
        except (MetisError, asyncio.CancelledError):
            self.current = before
            self._changed.set()
            raise
        for member in self._registry:
            if member.connection is not None:
                job.post(Joined(member.id, None))

    async def resume(self, federation_id: FederationId) -> None:
        """Go on with a federation that was not finished when its controller died."""
        job = self._new_job(federation_id)
        if await job.resume():
            self.current = job
            self._changed.set()

    def drop(self) -> None:
        """Let go of what was resumed, where the controller cannot open."""
        if self.current is not None:
            self.current.close()

    async def run(self) -> None:
        """Let one federation after another work, until cancelled; a bug in one ends it, and is raised."""
        try:
            while True:
                self._changed.clear()
                if self.current is None or self.current.has_run:  # the next one could not begin, and it is here again
                    await self._changed.wait()
                else:
                    await first_of(self.current.run(), self._changed.wait())
        finally:
            self._is_closed = True
            if self._begun is not None:
                await end_all([self._begun])
