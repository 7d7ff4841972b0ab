"""A federation as a service of a FastAPI app, which goes on after the app was restarted, or killed.

    pip install . fastapi uvicorn          (in the folder of this project)
    uvicorn app:app --timeout-graceful-shutdown 5
    curl -X POST 'localhost:8000/federation?rounds=1000'
    curl -N localhost:8000/federation/events     # server-sent events; http://localhost:8000/page/ shows them
    curl localhost:8000/federation               # what was reached so far
    curl -X DELETE localhost:8000/federation     # ends it in order, and gives the result

Stop the app in the middle, or kill it, and start it again: the federation goes on with the round that was open. What
must survive is in the directory `federation`, or in the one that FEDERATION_DIR names.

The learners live in the app here, to keep the example whole. With `ServerParams("0.0.0.0", 50051, ...)` for the
controller and `learners=3`, the app waits for three that dial in.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Header, HTTPException, Query
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    Learner,
    MetisError,
    ModelStoreConfig,
    TerminationSignals,
)
from metisfl_async.events import Event, FederationStarted, event_to_dict
from metisfl_async.web import Dashboard

Weights = list[NDArray[Any]]


class MeanLearner(Learner):
    """Learns the mean of its own numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__(num_training_examples=100)
        self.numbers = np.random.default_rng(seed).normal(seed, 1.0, size=100)

    def get_weights(self) -> Weights:
        return [np.zeros(1)]

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept between tasks."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        mean = parameters[0] + 0.1 * (self.numbers.mean() - parameters[0])
        return [mean], self.evaluate([mean], config)

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"loss": float(np.mean((self.numbers - parameters[0]) ** 2))}


class Service:
    """One federation at a time. That it is not over is a file, which says for how many rounds it runs."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._file = directory, directory / "running.json"
        directory.mkdir(parents=True, exist_ok=True)
        self.session: DriverSession | None = None
        self._controller: Controller | None = None
        self._run: asyncio.Task[FederationResult] | None = None

    @property
    def is_running(self) -> bool:
        return self._run is not None and not self._run.done()

    def events(self) -> AsyncIterator[Event]:
        """Follow the federation, for the page."""
        return nothing() if self.session is None else self.session.events()

    def start(self, rounds: int, *, resume: bool = False) -> None:
        signals = TerminationSignals(federation_rounds=rounds)
        self._file.write_text(json.dumps({"rounds": rounds}))
        store = ModelStoreConfig(model_store="Disk", directory=self._directory / "models")
        self._controller = Controller(None, ControllerConfig(), store, resume=resume)
        self.session = DriverSession(self._controller, [MeanLearner(seed) for seed in range(3)], signals)
        self._run = asyncio.create_task(self._until_over(resume=resume))

    async def _until_over(self, *, resume: bool) -> FederationResult:
        assert self.session is not None
        result = await self.session.run(resume=resume)
        self._file.unlink()
        return result

    def go_on(self) -> None:
        """Take up the federation that was not over when the app ended, if there is one."""
        with suppress(FileNotFoundError):
            self.start(json.loads(self._file.read_text())["rounds"], resume=True)

    async def stop(self) -> FederationResult:
        assert self.session is not None
        assert self._run is not None
        await self.session.stop("a user stopped it")
        return await asyncio.shield(self._run)

    async def close(self) -> None:
        """Leave a federation that is not over. To cancel its run would stop it; to close its controller does not."""
        if self._controller is not None and self._run is not None:
            await self._controller.close()
            with suppress(MetisError):
                await self._run


async def nothing() -> AsyncIterator[Event]:
    """Tell of no federation."""
    for event in list[Event]():
        yield event


service = Service(Path(os.environ.get("FEDERATION_DIR", "federation")))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    service.go_on()
    yield
    await service.close()


app = FastAPI(lifespan=lifespan)
app.mount("/page", Dashboard(service))


@app.post("/federation", status_code=202)
async def start(rounds: Annotated[int, Query(ge=1)] = 10) -> dict[str, str]:
    if service.is_running:
        raise HTTPException(409, "a federation is running")
    service.start(rounds)
    return {"events": "/federation/events"}


def running_session() -> DriverSession:
    if service.session is None:
        raise HTTPException(404, "no federation was started")
    return service.session


@app.get("/federation")
async def reached() -> dict[str, Any]:
    session = running_session()
    return {"is_running": service.is_running} | (session.result.to_dict() if session.result else {})


@app.delete("/federation")
async def stop() -> dict[str, Any]:
    if not service.is_running:
        raise HTTPException(404, "no federation is running")
    return (await service.stop()).to_dict()


@app.get("/federation/events")
async def events(last_event_id: Annotated[str, Header()] = "") -> StreamingResponse:
    session = running_session()

    async def lines() -> AsyncIterator[str]:
        run = ""  # of the controller: its events are numbered, and another run begins anew
        async for event in session.events():
            if isinstance(event, FederationStarted):
                run = event.run_id
                seen = int(last_event_id.split(":")[1]) if last_event_id.startswith(f"{run}:") else 0
            if event.serial > seen:
                yield f"id: {run}:{event.serial}\ndata: {json.dumps(event_to_dict(event))}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
