from __future__ import annotations

import socket
import sys

import httpx
import pytest
from federations import Adds, nothing_left_behind, session_of
from viewers import Source, viewing

from metisfl_async import ConfigError, Controller, DriverSession, TerminationSignals
from metisfl_async.web import Dashboard, Page, feed, page


async def test_a_page_is_served_while_a_session_runs_and_ends_with_its_viewers() -> None:
    async with nothing_left_behind():
        session = session_of([Adds(1)], rounds=2)
        async with Page(session) as shown, httpx.AsyncClient(base_url=shown.url) as client:
            assert shown.url.startswith("http://127.0.0.1:")
            await session.run()
            async with client.stream("GET", "events") as answer:
                assert await _hears(answer, '"finished"')
                await shown.close()
        await shown.close()


async def _hears(answer: httpx.Response, text: str) -> bool:
    async for line in answer.aiter_lines():
        if text in line:
            return True
    return False


async def test_the_usual_port_is_taken_if_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(page, "PORT", port)
        async with Page(Source()) as shown:
            assert f":{port}/" not in shown.url
    async with Page(Source()) as shown:
        assert shown.url == f"http://127.0.0.1:{port}/"


async def test_who_asks_under_another_name_is_refused() -> None:
    async with Page(Source()) as shown, httpx.AsyncClient(base_url=shown.url) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/", headers={"host": f"localhost:{shown.url.split(':')[2][:-1]}"})).status_code == 200
        assert (await client.get("/", headers={"host": "evil.example:8420"})).status_code == 400


async def test_a_session_shows_itself_in_a_notebook() -> None:
    session = session_of([Adds(1)], rounds=1)
    shown = session.show()
    assert f'<iframe src="{shown.url}"' in shown._repr_html_()
    await session.run()
    async with httpx.AsyncClient() as client:
        assert (await client.get(shown.url)).status_code == 200
    await shown.close()


def test_without_a_loop_or_uvicorn_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="without a running event loop"):
        session_of([Adds(1)]).show()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ModuleNotFoundError, match="pip install uvicorn"):
        session_of([Adds(1)]).show()


async def test_whoever_looks_at_a_controller_sees_what_runs_there_and_keeps_nothing_going(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "AGAIN_S", 0.01)
    async with Controller() as controller:
        assert [event async for event in controller.events()] == []
        async with viewing(Dashboard(controller)) as viewer:
            session = DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=2))
            await session.run()
            await viewer.until(lambda viewer: viewer.run.get("phase") == "finished" and len(viewer.rows("round")) == 2)
            assert controller._open.service._drivers == 0
