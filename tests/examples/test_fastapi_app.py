"""The app in a process of its own: killed or stopped in the middle of a federation, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from browser import Watching, browsing
from federations import PATIENCE_S, until

APP = Path(__file__).parents[2] / "examples" / "fastapi_app"


@asynccontextmanager
async def served(directory: Path, port: int, how_it_ends: signal.Signals) -> AsyncIterator[httpx.AsyncClient]:
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--timeout-graceful-shutdown", "1"]
    process = subprocess.Popen(  # noqa: ASYNC220
        [*command, "--log-level", "warning"], cwd=APP, env=os.environ | {"FEDERATION_DIR": str(directory)}
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            await until(lambda: process.poll() is not None or is_up(client))
            yield client
    finally:
        process.send_signal(how_it_ends)
        await until(lambda: process.poll() is not None)


def is_up(client: httpx.AsyncClient) -> bool:
    try:
        return httpx.get(client.base_url.join("/openapi.json")).is_success
    except httpx.TransportError:
        return False


async def events_until(client: httpx.AsyncClient, kind: str, last_event_id: str = "") -> list[tuple[str, Any]]:
    """Give events with their ids, up to one of a kind."""
    seen: list[tuple[str, Any]] = []
    headers = {"Last-Event-ID": last_event_id}
    async with client.stream("GET", "/federation/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                event_id = line.removeprefix("id: ")
            if line.startswith("data: "):
                seen.append((event_id, json.loads(line.removeprefix("data: "))))
                if seen[-1][1]["event"] == kind:
                    break
    return seen


async def test_the_page_goes_on_after_the_app_was_started_again(tmp_path: Path, free_port: int) -> None:
    async with browsing() as browser:
        async with served(tmp_path, free_port, signal.SIGKILL) as client:
            await client.post("/federation", params={"rounds": 1_000_000})
            context = await browser.new_context()
            page = Watching(await context.new_page(), str(client.base_url))
            await page.page.goto(f"{client.base_url}/page")
            await page.until("tables.round.size > 3")
            first = await page.page.evaluate("Math.max(...[...tables.round.values()].map((round) => round.number))")
        await page.until("document.querySelector('#link').textContent.startsWith('connection lost')")
        async with served(tmp_path, free_port, signal.SIGKILL):
            await page.until(f"[...tables.round.values()].some((round) => round.number > {first} + 1)")
            await page.until("document.querySelector('#link').textContent === ''")


async def test_a_federation_goes_on_after_the_app_was_killed_and_after_it_was_stopped(
    tmp_path: Path, free_port: int
) -> None:
    async with served(tmp_path, free_port, signal.SIGKILL) as client:
        assert (await client.get("/federation/events")).status_code == 404
        assert (await client.post("/federation", params={"rounds": 0})).status_code == 422
        assert (await client.post("/federation", params={"rounds": 1_000_000})).status_code == 202
        first = await events_until(client, "RoundFinished")
        assert (await client.post("/federation")).status_code == 409
        assert "<title>" in (await client.get("/page/")).text
        again = await events_until(client, "RoundFinished", first[-1][0])
        assert again[0][1]["serial"] == first[-1][1]["serial"] + 1  # EventSource goes on where it was
    for how_it_ends in (signal.SIGTERM, signal.SIGKILL):
        async with served(tmp_path, free_port, how_it_ends) as client:
            resumed = await events_until(client, "RoundFinished", again[-1][0])
            assert [event["event"] for _, event in resumed[:2]] == ["FederationStarted", "FederationResumed"]
            assert resumed[0][1]["started_at"] == first[0][1]["started_at"]
            if how_it_ends == signal.SIGTERM:
                continue  # stopped in the middle, it goes on once more
            result = (await client.delete("/federation")).json()
            assert result["reason"] == "a user stopped it"
            numbers = [record["number"] for record in result["rounds"] if record["is_published"]]
            assert numbers == list(range(1, len(numbers) + 1))
            assert not (await client.get("/federation")).json()["is_running"]
            assert (await client.delete("/federation")).status_code == 404
            await client.post("/federation", params={"rounds": 2})  # the next one
            await events_until(client, "FederationFinished")
