"""A web app that trains: POST /federations starts one, GET /federations/{id}/events streams what happens in it.

    pip install . starlette uvicorn        (in the folder of this project)
    uvicorn app:app --timeout-graceful-shutdown 5
    curl -X POST 'localhost:8000/federations?rounds=5'
    curl -N localhost:8000/federations/1/events
    curl localhost:8000/federations/1

Without that option uvicorn would wait, before it shuts down, for whoever still follows the events.

The learners live in the app here, to keep the example whole. With `Controller(ServerParams("0.0.0.0", 50051, ...))` and
`learners=3`, the app waits for three that dial in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from metisfl_async import Controller, DriverSession, Learner, TerminationSignals
from metisfl_async.events import event_to_dict

Weights = list[NDArray[Any]]


class LinearLearner(Learner):
    """Fits y = X @ w to its own noisy samples by gradient descent."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(200, 3))
        self.y = self.x @ [1.0, -2.0, 3.0] + rng.normal(scale=0.1, size=200)
        super().__init__(num_training_examples=200)

    def get_weights(self) -> Weights:
        return [np.zeros(3)]

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept between tasks."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        (w,) = parameters
        for _ in range(5):
            w -= 0.1 * self.x.T @ (self.x @ w - self.y) / len(self.y)
        return [w], self.evaluate([w], config)

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"loss": float(np.mean((self.x @ parameters[0] - self.y) ** 2))}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the federations; when the app shuts down, cancel what runs and wait until all of it has ended."""
    app.state.sessions, app.state.runs = {}, {}
    yield
    for run in app.state.runs.values():
        run.cancel()
    await asyncio.gather(*app.state.runs.values(), return_exceptions=True)


async def start(request: Request) -> Response:
    try:
        signals = TerminationSignals(federation_rounds=int(request.query_params.get("rounds", 5)))
    except ValueError as error:  # a ConfigError is one
        return Response(str(error), status_code=400)
    session = DriverSession(Controller(), [LinearLearner(seed) for seed in range(3)], signals)
    number = str(len(request.app.state.sessions) + 1)
    request.app.state.sessions[number] = session
    request.app.state.runs[number] = asyncio.create_task(session.run())
    return JSONResponse({"id": number}, status_code=202)


async def events(request: Request) -> Response:
    session: DriverSession | None = request.app.state.sessions.get(request.path_params["number"])
    if session is None:
        return Response("no such federation", status_code=404)

    async def lines() -> AsyncIterator[str]:
        async for event in session.events():
            yield json.dumps(event_to_dict(event)) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def result(request: Request) -> Response:
    run = request.app.state.runs.get(request.path_params["number"])
    if run is None:
        return Response("no such federation", status_code=404)
    return JSONResponse((await asyncio.shield(run)).to_dict())  # waits for the end; a client that leaves stops nothing


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/federations", start, methods=["POST"]),
        Route("/federations/{number}/events", events),
        Route("/federations/{number}", result),
    ],
)
