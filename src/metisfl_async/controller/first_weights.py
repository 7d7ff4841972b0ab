"""Takes in the first weights that a driver sends before it starts a federation, one model at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

from metisfl_async.codec.frame import Assembly, Frame, Header, check_size
from metisfl_async.controller.jobs import Jobs
from metisfl_async.controller.latest import Latest
from metisfl_async.controller.staging import Room, Staging
from metisfl_async.controller.threads import Threads
from metisfl_async.controller.updates import Arrivals, header_of
from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.strategies.aggregation.arithmetic import unfit

__all__ = ["FirstWeights"]


class FirstWeights:
    """Reads one model at a time; the others wait, with nothing of them read but their headers."""

    def __init__(self, config: ControllerConfig, jobs: Jobs, threads: Threads, clock: Callable[[], float]) -> None:
        self._config, self._jobs, self._threads, self._clock = config, jobs, threads, clock
        self._staging, self._latest = Staging(config.max_inflight_bytes, 1), Latest()

    async def receive(self, frames: AsyncIterator[Frame]) -> None:
        """Take in a model, unless a federation runs; a newer one for the same federation ends the older."""
        header = await header_of(frames, ("global",), "a driver", self._config.upload_idle_secs)
        check_size(header, self._config.max_model_bytes)
        if not header.manifest.tensors:
            raise UnexpectedMessage("the model has no tensors")
        self._jobs.check_awaits(header.federation_id)
        newer = UnexpectedMessage("the first weights of this federation come on a newer call")
        async with self._latest.of(header.federation_id, newer):
            size = header.manifest.size_bytes
            try:
                room = await self._staging.reserve(size)
            except MemoryError:
                raise UnexpectedMessage(f"there is no memory for a model of {size} bytes") from None
            try:
                self._jobs.check_awaits(header.federation_id)  # one may have been started meanwhile
                await self._read(header, frames, room)
            except BaseException:
                room.release()
                raise

    async def _read(self, header: Header, frames: AsyncIterator[Frame], room: Room) -> None:
        assembly = Assembly(header, room.buffer)
        arrivals = Arrivals(frames, "the driver", self._config, self._clock)
        while not assembly.is_complete:
            if (frame := await arrivals.next()) is None:
                raise assembly.truncated()
            assembly.add(frame)
        model = assembly.model
        if (problem := await self._threads.work(len(model.buffer), partial(unfit, is_first=True), model)) is not None:
            raise UnexpectedMessage(f"the model cannot be used: {problem}")
        self._jobs.give(header.federation_id, model)
        room.keep()
