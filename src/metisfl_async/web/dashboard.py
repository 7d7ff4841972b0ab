"""The page as an ASGI app: one file after another, and a stream of what changes."""

from __future__ import annotations

import asyncio
import hmac
import html
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import quote

from metisfl_async.core.errors import ConfigError, MetisError
from metisfl_async.transport.concurrency import aside, first_of
from metisfl_async.web.feed import Feed, Watched
from metisfl_async.web.files import FILES, page
from metisfl_async.web.saved import as_file

__all__ = ["Dashboard", "Message", "Receive", "Send", "answer", "header_of"]

logger = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

PAUSE_S = 0.1  #: between two messages to a viewer, at least
IDLE_S = 15.0  #: after which a viewer hears that nothing has changed: proxies close what is silent
MOST_DIGITS = 20  #: of a version; Python reads no number of thousands
RETRY_MS = 1_000  #: until a browser that lost us tries again

HEADERS = [
    (b"content-security-policy", b"default-src 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


@runtime_checkable
class Stoppable(Protocol):
    """What can be ended in order, as a `DriverSession` can, and one that is attached."""

    async def stop(self, reason: str) -> None: ...


class Dashboard:
    """Shows federations while they run, as an ASGI app that is mounted anywhere.

    ::

        app.mount("/fl", Dashboard(session))

    It needs no lifespan, uses relative addresses, loads nothing from elsewhere, and only reads. It works on the loop
    that its sessions run on.

    Parameters
    ----------
    sessions : DriverSession, AttachedSession, or mapping of str to those
        What to show. Several have a page each, under their names, and one that lists them.
    allow_stop : bool
        Show a button that ends the federation in order. It asks for the token.
    token : str, optional
        What whoever stops a federation must know.
    """

    def __init__(
        self, sessions: Watched | Mapping[str, Watched], *, allow_stop: bool = False, token: str | None = None
    ) -> None:
        if allow_stop and not token:
            raise ConfigError("token", token, "a text that is hard to guess, with allow_stop=True")
        several = dict(sessions) if isinstance(sessions, Mapping) else {"": sessions}
        if not several:
            raise ConfigError("sessions", sessions, "a session, or a dict of at least one")
        for name, session in several.items():
            if not callable(getattr(session, "events", None)):
                raise ConfigError("sessions", session, "a DriverSession, or what else has events(); or a dict of those")
            if "/" in name or (not name and isinstance(sessions, Mapping)):
                raise ConfigError("a name of sessions", name, "a text without /")
        self._token = token if allow_stop else None
        self._sessions = several
        self._feeds = {name: Feed(session, name) for name, session in several.items()}
        self._closing = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        if scope["type"] != "http":
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        name, _, file = path.removeprefix("/").rpartition("/")
        if not path:  # mounted, and asked for without the slash, from which relative addresses go on
            await answer(send, 307, b"", location=quote(scope["path"].rpartition("/")[2]) + "/")
        elif name in self._feeds:
            await self._show(name, file, scope, receive, send)
        elif path == "/" and scope["method"] == "GET":
            await answer(send, 200, self._list(), "text/html; charset=utf-8")
        elif file in self._feeds:
            await answer(send, 307, b"", location=quote(file) + "/")
        else:
            await answer(send, 404, b"nothing is here")

    def close(self) -> None:
        """End all streams: the server that they keep is to end."""
        self._closing.set()

    async def _show(self, name: str, file: str, scope: Message, receive: Receive, send: Send) -> None:
        """Answer for one of the files of a session's page."""
        feed = self._feeds[name]
        if file == "stop" and self._token is not None:
            await self._stop(self._sessions[name], scope, send)
        elif scope["method"] != "GET":
            await answer(send, 405, b"the page can only be read")
        elif file == "":
            await answer(send, 200, page(can_stop=self._token is not None), "text/html; charset=utf-8")
        elif file == "events" and self._closing.is_set():
            await answer(send, 503, b"the server ends")
        elif file == "events":
            await first_of(self._stream(feed, _last_id(scope), send), _gone(receive), self._closing.wait())
            await send({"type": "http.response.body", "body": b""})
        elif file == "run.html":
            rows = await feed.rows()
            saved = await aside(sum(map(len, rows)), as_file, rows)
            await answer(send, 200, saved, "text/html; charset=utf-8", as_is=True)
        elif file in FILES:
            await answer(send, 200, *FILES[file])
        else:
            await answer(send, 404, b"nothing is here")

    async def _stream(self, feed: Feed, last_id: str, send: Send) -> None:
        """Tell what changes, for ever, at most ten times a second."""
        await send(_start(200, "text/event-stream", [(b"x-accel-buffering", b"no")]))
        await _send_part(send, f"retry: {RETRY_MS}\n\n")
        seen, _, number = last_id.partition("-")
        version = int(number) if number.isascii() and number.isdecimal() and len(number) < MOST_DIGITS else 0
        async with feed.watched():
            while True:
                board, changes = await feed.since(seen, version, IDLE_S)
                if not changes.text:
                    await _send_part(send, ": nothing new\n\n")
                    continue
                seen, version = board.rows.id, changes.version
                await _send_part(send, f"id: {seen}-{version}\ndata: {changes.text}\n\n")
                is_behind = version < board.rows.version
                await asyncio.sleep(0 if is_behind else PAUSE_S)

    async def _stop(self, session: Watched, scope: Message, send: Send) -> None:
        """End a federation, for whoever knows the token."""
        given = header_of(scope, b"authorization").removeprefix("Bearer ")
        if scope["method"] != "POST":
            await answer(send, 405, b"a federation is stopped by POST")
        elif not hmac.compare_digest(given.encode(), (self._token or "").encode()):
            await answer(send, 403, b"the token is wrong")
        elif not isinstance(session, Stoppable):
            await answer(send, 409, b"it cannot be stopped from here")
        else:
            try:
                await session.stop("the page's stop button")
            except MetisError as error:
                await answer(send, 409, str(error).encode())
            else:
                await answer(send, 202, b"it ends")

    def _list(self) -> bytes:
        """List several sessions."""
        links = "".join(f'<li><a href="{quote(name)}/">{html.escape(name)}</a></li>' for name in self._feeds)
        style = quote(next(iter(self._feeds), ""))
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>Federations</title><link rel="stylesheet" href="{style}/page.css">'
            f"<header><h1>Federations</h1></header><main><section><ul>{links}</ul></section></main>"
        ).encode()


async def _gone(receive: Receive) -> None:
    """Wait until the viewer has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _last_id(scope: Message) -> str:
    """Say what a viewer saw last: its browser does, or our script where the browser has given up."""
    query: bytes = scope.get("query_string", b"")
    return header_of(scope, b"last-event-id") or query.decode("latin-1").removeprefix("after=")


def header_of(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _start(status: int, kind: str, headers: list[tuple[bytes, bytes]], *, as_is: bool = False) -> Message:
    headers = [(b"content-type", kind.encode()), *(HEADERS[1:] if as_is else HEADERS), *headers]
    return {"type": "http.response.start", "status": status, "headers": headers}


async def answer(
    send: Send,
    status: int,
    body: bytes,
    kind: str = "text/plain; charset=utf-8",
    *,
    location: str | None = None,
    as_is: bool = False,
) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    if location is not None:
        headers.append((b"location", location.encode()))
    await send(_start(status, kind, headers, as_is=as_is))
    await send({"type": "http.response.body", "body": body})


async def _send_part(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
