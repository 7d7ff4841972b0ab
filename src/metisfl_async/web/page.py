"""Serves the page on this machine: for the command line, and for notebooks."""

from __future__ import annotations

import asyncio
import errno
import html
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from metisfl_async.core.errors import ConfigError
from metisfl_async.transport.concurrency import to_the_end
from metisfl_async.web.dashboard import Dashboard, Message, Receive, Send, answer, header_of
from metisfl_async.web.feed import Watched

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Page"]

HOST = "127.0.0.1"
PORT = 8420  #: if it is free: then a page that is open finds its federation again after a restart
NAMES = ("127.0.0.1", "localhost")  #: by which it may be asked for
CLOSING_S = 2  #: for answers under way


class Page:
    """A page at an address of this machine, while it is open.

    ::

        async with Page(session) as page:
            print(page.url)
            await session.run()
    """

    def __init__(self, sessions: Watched | Mapping[str, Watched]) -> None:
        self._dashboard = Dashboard(sessions)
        self._task: asyncio.Task[None] | None = None
        self.url = ""  #: once it is open

    def open(self) -> Self:
        """Serve it from now on, on the running loop."""
        if self._task is not None:
            return self
        try:
            import uvicorn
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("the page needs uvicorn: pip install uvicorn", name="uvicorn") from error
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            allowed = "in a coroutine, or in a notebook: the page is served by the loop of the session"
            raise ConfigError("the page", "opened without a running event loop", allowed) from None

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                """Leave signals to the program."""
                yield

        listening = _listening()
        self.url = f"http://{HOST}:{listening.getsockname()[1]}/"
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=CLOSING_S,
        )
        self._server = Server(config)
        self._task = asyncio.create_task(_serve(self._server, listening), name="page-server")
        return self

    async def close(self) -> None:
        """End the server; may be called twice."""
        if self._task is not None:
            task, self._task = self._task, None
            self._dashboard.close()
            self._server.should_exit = True
            await to_the_end(_ended(task))

    async def __aenter__(self) -> Self:
        return self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        url = html.escape(self.url)
        frame = f'<iframe src="{url}" width="100%" height="720" style="border: 1px solid #8888"></iframe>'
        return f'<p><a href="{url}" target="_blank">{url}</a></p>{frame}'

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer who asks for this machine: another site's name may lead here, too, so that its scripts could read."""
        if scope["type"] == "http" and header_of(scope, b"host").rpartition(":")[0] not in NAMES:
            await answer(send, 400, b"ask for it by the address that was printed")
        else:
            await self._dashboard(scope, receive, send)


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    with listening:  # a server that is told to end before it has begun leaves it open
        await server.serve([listening])


async def _ended(task: asyncio.Task[None]) -> None:
    await task


def _listening() -> socket.socket:
    """Open a port: the usual one, or another if that is taken."""
    for port in (PORT, 0):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            listening.listen()
            listening.setblocking(False)
            return listening
    raise AssertionError  # a port 0 is never taken
