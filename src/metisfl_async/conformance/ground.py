"""Where a learner is checked: controllers that come and go behind one address, and federations of one learner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from metisfl_async.conformance.link import Link
from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import ControllerConfig, ModelStoreConfig, ServerParams, TerminationSignals
from metisfl_async.core.federation.events import Event
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Array
from metisfl_async.driver.result import FederationResult
from metisfl_async.driver.session import DriverSession

__all__ = ["HEARTBEAT_S", "Ground", "Unfit"]

HEARTBEAT_S = 0.25
LEASE_S = 15.0  #: a learner may pause for 10 s between two attempts to connect
LOST_S = 1.0  #: for a driver, on the same machine, to find out that its controller was taken away

OnEvent = Callable[[Event], Awaitable[None]]


class Unfit(Exception):
    """A learner does what it must not, or not what it must: why."""


class Ground:
    """One controller at a time, on the other side of a link."""

    def __init__(self, link: Link, directory: Path, train_params: Mapping[str, Json], timeout_s: float) -> None:
        self.link = link
        self.weights: list[Array] = []  #: of the learner's first federation
        self._directory, self._train_params, self._timeout_s = directory, train_params, timeout_s
        self._controller: Controller | None = None

    async def open(self, *, name: str = "", resume: bool = False, round_timeout_s: float | None = None) -> None:
        """Put a new controller behind the link; one with a name keeps on disk what it does."""
        await self.close()
        config = ControllerConfig(
            heartbeat_secs=HEARTBEAT_S,
            lease_secs=LEASE_S,
            max_failed_rounds=1,
            round_timeout_secs=round_timeout_s,
            train_params=dict(self._train_params),
        )
        store = ModelStoreConfig(model_store="Disk", directory=self._directory / name) if name else None
        self._controller = Controller(ServerParams(port=0), config, store, resume=resume)
        await self._controller.__aenter__()
        self.link.target = self._controller.client_params.port

    async def close(self) -> None:
        """Take the controller away without a word: its learner sees connections that break."""
        self.link.target = None
        self.link.cut()
        controller, self._controller = self._controller, None
        if controller is not None:
            await controller.close()

    async def federation(
        self,
        rounds: int,
        *,
        weights: Sequence[Array] | None = None,
        on_event: OnEvent | None = None,
        keep_running: bool = True,
        resume: bool = False,
    ) -> FederationResult:
        """Run a federation of the learner alone; `on_event` hears what happens in it."""
        assert self._controller is not None

        async def watch(session: DriverSession) -> None:
            async for event in session.events():
                if on_event is not None:
                    await on_event(event)

        signals = TerminationSignals(federation_rounds=rounds)
        session = DriverSession(
            self._controller.client_params,
            1,
            signals,
            initial_weights=weights,
            join_timeout_secs=self._timeout_s,
            keep_running=keep_running,
            lost_secs=LOST_S,
        )
        return await session.run(watch=[watch], resume=resume)

    async def until_it_has_left(self) -> None:
        """Wait until the controller, which was told to end, has."""
        assert self._controller is not None
        await self._controller.serve()
