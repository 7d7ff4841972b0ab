"""Viewers of a page, without a browser: they call the ASGI app, and put together what the stream tells them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from federations import PATIENCE_S, until

from metisfl_async import FederationResult
from metisfl_async.store.event_log import EventLog
from metisfl_async.web import Dashboard


class Source:
    """Something with events, and perhaps a result."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.events = self.log.follow
        self.result: FederationResult | None = None


class Viewer:
    """Has the tables of the page, as the script in a browser has them."""

    def __init__(self, last_id: str = "") -> None:
        self.tables: dict[str, dict[int, Any]] = {}
        self.last_id = last_id
        self.resets = self.messages = 0
        self.other = ""  # lines that are no event
        self.status, self.headers = 0, dict[str, str]()
        self._text = ""
        self._heard = asyncio.Event()

    def take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        self._text += message.get("body", b"").decode()
        *events, self._text = self._text.split("\n\n")
        for event in events:
            self._take_event(event)
        self._heard.set()

    def _take_event(self, event: str) -> None:
        lines = dict(line.split(": ", 1) for line in event.splitlines())
        if "data" not in lines:
            self.other += event + "\n"
            return
        self.messages += 1
        if lines["id"].partition("-")[0] != self.last_id.partition("-")[0]:  # as the script does
            self.resets, self.tables = self.resets + 1, {}
        self.last_id = lines["id"]
        for name, key, value in json.loads(lines["data"]):
            self.tables.setdefault(name, {})[key] = value

    @property
    def run(self) -> dict[str, Any]:
        return dict(self.tables.get("run", {}).get(0, {}))

    def rows(self, name: str) -> list[Any]:
        return [value for _, value in sorted(self.tables.get(name, {}).items())]

    async def until(self, condition: Callable[[Viewer], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self):
                self._heard.clear()
                await self._heard.wait()


def scope_of(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    given = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": given, "query_string": b""}


@asynccontextmanager
async def served(app: Any, dashboard: Dashboard) -> AsyncIterator[str]:
    """Serve an app that a dashboard is in: gives its address."""
    config = uvicorn.Config(app, port=0, log_level="critical", loop="asyncio", lifespan="off", interface="asgi3")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    dashboard.close()
    server.should_exit = True
    await serving


@asynccontextmanager
async def viewing(dashboard: Dashboard, path: str = "/events", last_id: str = "") -> AsyncIterator[Viewer]:
    """Follow a page for as long as the block takes."""
    viewer, leaving = Viewer(last_id), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        viewer.take(message)

    headers = {"last_event_id": last_id} if last_id else {}
    watching = asyncio.create_task(dashboard(scope_of(path, **headers), receive, send))
    try:
        yield viewer
    finally:
        leaving.set()
        await watching


async def ask(
    dashboard: Dashboard, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask for a file: the answer's status, headers and body."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    await dashboard(scope_of(path, method, **headers), receive, send)
    named = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:])
