"""The web app as its users use it: a real server, a real client, events while they happen, a clean shutdown."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import uvicorn
from federations import PATIENCE_S, nothing_left_behind, until

pytestmark = pytest.mark.slow

PATH = Path(__file__).parents[2] / "examples" / "web_app" / "app.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("web_app_example", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def served() -> AsyncIterator[httpx.AsyncClient]:
    config = uvicorn.Config(load().app, port=0, log_level="critical", loop="asyncio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def test_a_federation_is_started_followed_and_read() -> None:
    async with nothing_left_behind(), served() as client:
        started = await client.post("/federations", params={"rounds": 5})
        assert started.status_code == 202
        number = started.json()["id"]
        async with client.stream("GET", f"/federations/{number}/events") as stream:
            kinds = [json.loads(line)["event"] async for line in stream.aiter_lines()]
        assert kinds[:2] == ["FederationStarted", "LearnerJoined"]
        assert kinds.count("RoundFinished") == 5
        assert kinds[-1] == "FederationFinished"
        result = (await client.get(f"/federations/{number}")).json()
        losses = [record["evaluation_metrics"]["loss"] for record in result["rounds"]]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.2
        assert (await client.get("/federations/99/events")).status_code == 404
        for rounds in ("many", "0"):
            assert (await client.post("/federations", params={"rounds": rounds})).status_code == 400


async def test_shutting_down_in_the_middle_leaves_nothing() -> None:
    async with nothing_left_behind(), served() as client:
        for _ in range(2):
            await client.post("/federations", params={"rounds": 1_000_000})
        async with client.stream("GET", "/federations/2/events") as stream:
            async for line in stream.aiter_lines():
                if json.loads(line)["event"] == "RoundFinished":
                    break


async def test_a_watcher_does_not_keep_the_server_up() -> None:
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S):
        async with served() as client:
            await client.post("/federations", params={"rounds": 1_000_000})
            watching = asyncio.create_task(client.get("/federations/1/events"))
            waiting = asyncio.create_task(client.get("/federations/1"))
            await client.get("/federations/99")
        await asyncio.gather(watching, waiting, return_exceptions=True)  # broken off, one way or the other
