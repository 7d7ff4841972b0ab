from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from federations import Adds, AddsOnLoop, nothing_left_behind, session_of, until
from starlette.applications import Starlette
from starlette.routing import Mount
from viewers import Source, Viewer, ask, scope_of, served, viewing

from metisfl_async import ConfigError, FederationResult
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.events import (
    Event,
    EventsMissed,
    FederationFinished,
    FederationResumed,
    FederationStarted,
    LearnerJoined,
    RoundFinished,
)
from metisfl_async.store import event_log
from metisfl_async.web import Dashboard, dashboard, feed
from metisfl_async.web.files import FILES

STARTED = FederationStarted("f" * 32, "0" * 16)


def is_over(viewer: Viewer) -> bool:
    return viewer.run.get("phase") == "finished"


# --- files -----------------------------------------------------------------------------------------------------------


async def test_every_file_of_the_page_is_there_and_loads_nothing_from_elsewhere() -> None:
    app = Dashboard(Source())
    status, headers, html = await ask(app, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["content-security-policy"] == "default-src 'self'"
    for name in FILES:
        assert f'="{name}"'.encode() in html
        status, headers, body = await ask(app, f"/{name}")
        assert (status, int(headers["content-length"])) == (200, len(body))
        assert headers["x-content-type-options"] == "nosniff"
    assert b"http" not in html.replace(b"http-equiv", b"")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        ("/a/b", "GET", 404),
        ("/", "POST", 405),
        ("/stop", "POST", 405),
        ("/events", "PUT", 405),
    ],
)
async def test_nothing_else_is_there_and_nothing_can_be_written(path: str, method: str, status: int) -> None:
    assert (await ask(Dashboard(Source()), path, method))[0] == status


async def test_it_does_not_know_where_it_is_mounted() -> None:
    app = Starlette(routes=[Mount("/deep/fl", Dashboard({"a b": Source(), "ü": Source()}))])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://host", follow_redirects=True
    ) as client:
        listed = await client.get("/deep/fl")
        assert str(listed.url) == "http://host/deep/fl/"
        assert '<a href="a%20b/">a b</a>' in listed.text
        shown = await client.get("/deep/fl/a%20b")
        assert str(shown.url) == "http://host/deep/fl/a%20b/"
        assert 'src="page.js"' in shown.text
        assert (await client.get("/deep/fl/%C3%BC/page.js")).status_code == 200
        assert (await client.get("/deep/fl/c/")).status_code == 404


async def test_an_app_without_its_last_slash_is_asked_for_again_with_it() -> None:
    scope = scope_of("/fl") | {"root_path": "/fl"}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await Dashboard(Source())(scope, lambda: asyncio.Future(), send)
    assert sent[0]["status"] == 307
    assert (b"location", b"fl/") in sent[0]["headers"]


async def test_names_are_escaped_where_several_are_listed() -> None:
    _, _, html = await ask(Dashboard({"<script>": Source()}), "/")
    assert b"<script>" not in html
    assert b"&lt;script&gt;" in html


@pytest.mark.parametrize("sessions", [7, {}, {"a": 7}, {"a/b": Source()}, {"": Source()}])
def test_what_cannot_be_shown_is_refused(sessions: Any) -> None:
    with pytest.raises(ConfigError, match=r"^(a name of )?sessions is .*; allowed: "):
        Dashboard(sessions)


async def test_other_protocols_are_left_alone() -> None:
    app, sent = Dashboard(Source()), []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


# --- the stream ------------------------------------------------------------------------------------------------------


async def test_a_viewer_sees_a_federation_from_its_beginning_to_its_end_and_leaves_nothing_behind() -> None:
    async with nothing_left_behind():
        session = session_of([Adds(1), Adds(2)], rounds=3)
        async with viewing(Dashboard(session)) as viewer:
            result = await session.run()
            await viewer.until(is_over)
        assert viewer.status == 200
        assert viewer.headers["content-type"] == "text/event-stream"
        assert [row["number"] for row in viewer.rows("round")] == [1, 2, 3]
        accuracy = result.rounds[2].evaluation_metrics["accuracy"]
        assert viewer.rows("round")[2]["metrics"]["accuracy"]["evaluation"] == pytest.approx(accuracy)
        assert [row["id"] for row in viewer.rows("learner")] == ["learner-0", "learner-1"]
        assert viewer.resets == 1


async def test_a_hundred_viewers_see_the_same_and_one_that_stands_still_holds_nobody_up() -> None:
    session = session_of([Adds(1), Adds(2)], rounds=20)
    app, leaving = Dashboard(session), asyncio.Event()
    at_send = asyncio.Event()

    async def stands_still(message: Any) -> None:
        at_send.set()
        await leaving.wait()

    async def receive() -> dict[str, Any]:
        await leaving.wait()
        return {"type": "http.disconnect"}

    slow = asyncio.create_task(app(scope_of("/events"), receive, stands_still))
    await at_send.wait()
    async with asyncio.TaskGroup() as group:
        viewers: list[Viewer] = []

        async def watch() -> None:
            async with viewing(app) as viewer:
                viewers.append(viewer)
                await viewer.until(is_over)

        for _ in range(100):
            group.create_task(watch())
        await session.run()
    assert len(viewers) == 100
    assert all(viewer.tables == viewers[0].tables for viewer in viewers)
    assert len(viewers[0].rows("round")) == 20
    leaving.set()
    await slow


async def test_whoever_comes_again_gets_what_changed_since() -> None:
    source = Source()
    app = Dashboard(source)
    source.log.append(STARTED)
    for number in range(500):
        source.log.append(LearnerJoined(f"site-{number}", number + 1))
    async with viewing(app) as viewer:
        await viewer.until(lambda viewer: len(viewer.rows("learner")) == 500)
    source.log.append(LearnerJoined("late", 501))
    async with viewing(app, last_id=viewer.last_id) as again:
        await again.until(lambda viewer: bool(viewer.rows("learner")))
        assert [row["id"] for row in again.rows("learner")] == ["late"]
        assert again.resets == 0
    board = viewer.last_id.partition("-")[0]
    for unknown in ("of-before-a-restart", f"{board}-x", "ffffffff-12", f"{board}-" + "9" * 5_000):
        async with viewing(app, last_id=unknown) as other:
            await other.until(lambda viewer: len(viewer.rows("learner")) == 501)


async def test_changes_come_at_most_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "PAUSE_S", 60.0)
    source = Source()
    async with viewing(Dashboard(source)) as viewer:
        await viewer.until(lambda viewer: viewer.messages == 1)
        for number in range(1_000):
            source.log.append(LearnerJoined("a", number))
            await asyncio.sleep(0)
        assert viewer.messages == 1


async def test_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "IDLE_S", 0.01)
    async with viewing(Dashboard(Source())) as viewer:
        await viewer.until(lambda viewer: viewer.other.count(": nothing new") >= 2)


async def test_who_comes_too_late_for_the_events_gets_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "KEPT", 40)
    session = session_of([Adds(1), Adds(2)], rounds=12)
    result = await session.run()
    first = await anext(session.events())
    assert isinstance(first, EventsMissed)
    async with viewing(Dashboard(session)) as viewer:
        await viewer.until(is_over)
        assert [row["number"] for row in viewer.rows("round")] == [record.number for record in result.rounds]


async def test_rounds_of_before_the_controller_was_started_again_come_when_it_is_over() -> None:
    source = Source()
    made = [RoundRecord(number, number - 1, is_published=True, started_ms=float(number)) for number in (1, 2, 3)]
    source.result = FederationResult(None, 3, made, "over")
    source.log.append(FederationStarted("f" * 32, "1" * 16))
    source.log.append(FederationResumed(2, 2))
    source.log.append(RoundFinished(made[2]))
    async with viewing(Dashboard(source)) as viewer:
        await viewer.until(lambda viewer: [row["number"] for row in viewer.rows("round")] == [3])
        source.log.append(FederationFinished("over"))
        source.log.close()
        await viewer.until(lambda viewer: sorted(row["number"] for row in viewer.rows("round")) == [1, 2, 3])


async def test_another_run_of_a_session_is_shown_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AGAIN_S", 0.01)
    session = session_of([Adds(1)], rounds=2)
    async with viewing(Dashboard(session)) as viewer:
        await session.run()
        await viewer.until(is_over)
        before = viewer.run["federation"]
        await session.run()
        await viewer.until(lambda viewer: is_over(viewer) and viewer.run["federation"] != before)
        assert viewer.resets == 2
        assert len(viewer.rows("round")) == 2


async def test_a_run_of_which_the_beginning_is_not_kept_is_no_other_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "KEPT", 40)
    monkeypatch.setattr(feed, "AGAIN_S", 0.001)
    session = session_of([Adds(1), Adds(2)], rounds=12)
    looks = 0

    def events() -> event_log.EventStream:
        nonlocal looks
        looks += 1
        return session.events()

    source = SimpleNamespace(events=events)
    async with viewing(Dashboard(source)) as viewer:
        await session.run()
        await viewer.until(is_over)
        await until(lambda: looks > 3)
        assert viewer.resets == 1


async def test_nothing_is_followed_while_nobody_watches() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    session = session_of([learner], rounds=2)
    app = Dashboard(session)
    running = asyncio.create_task(session.run())
    async with viewing(app) as viewer:
        await viewer.until(lambda viewer: viewer.run.get("phase") == "running")
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "page"]
    learner.may_train.set()
    await running
    async with viewing(app) as viewer:
        await viewer.until(is_over)
        assert len(viewer.rows("round")) == 2


async def test_a_record_that_is_half_taken_in_when_the_last_viewer_leaves_is_taken_in_later() -> None:
    source = Source()
    app = Dashboard(source)
    learners = {f"site-{number}": LearnerRecord() for number in range(2_000)}
    source.log.append(RoundFinished(RoundRecord(1, 0, is_published=True, learners=learners)))
    async with viewing(app) as viewer:
        await viewer.until(lambda viewer: bool(viewer.rows("learner")))
        assert not viewer.rows("round")
    async with viewing(app) as viewer:
        await viewer.until(lambda viewer: bool(viewer.rows("round")))
        assert viewer.rows("round")[0]["told"][1] == "0 of 2000"


async def test_what_the_page_cannot_take_in_is_logged_and_the_federation_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def events(self) -> AsyncIterator[Event]:
            raise RuntimeError("a bug")

    with caplog.at_level(logging.ERROR):
        async with viewing(Dashboard({"a": Broken()}), "/a/events") as viewer:
            await until(lambda: bool(caplog.records))
            assert viewer.run["phase"] == "waiting"
    assert "the page shows no more of a" in caplog.text


# --- stopping --------------------------------------------------------------------------------------------------------


async def test_it_can_be_stopped_by_who_knows_the_token_and_nobody_else() -> None:
    learner = AddsOnLoop(1)
    session = session_of([learner], rounds=1_000_000)
    app = Dashboard(session, allow_stop=True, token="secret")
    assert b"data-can-stop" in (await ask(app, "/"))[2]
    assert (await ask(app, "/stop", "POST", authorization="Bearer secret"))[0] == 409  # it does not run
    running = asyncio.create_task(session.run())
    await learner.is_training.wait()
    for given in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer \xfc"},
    ):
        assert (await ask(app, "/stop", "POST", **given))[0] == 403
    assert (await ask(app, "/stop", "GET", authorization="Bearer secret"))[0] == 405
    assert not running.done()
    assert (await ask(app, "/stop", "POST", authorization="Bearer secret"))[0] == 202
    assert (await running).reason == "the page's stop button"


async def test_what_only_tells_events_cannot_be_stopped() -> None:
    app = Dashboard(Source(), allow_stop=True, token="secret")
    assert (await ask(app, "/stop", "POST", authorization="Bearer secret"))[0] == 409


@pytest.mark.parametrize("token", [None, ""])
def test_a_stop_button_needs_a_token(token: str | None) -> None:
    with pytest.raises(ConfigError, match="token"):
        Dashboard(Source(), allow_stop=True, token=token)


async def test_without_a_stop_button_a_token_stops_nothing() -> None:
    app = Dashboard(session_of([Adds(1)]), token="secret")
    assert b"data-can-stop" not in (await ask(app, "/"))[2]
    assert (await ask(app, "/stop", "POST", authorization="Bearer secret"))[0] == 405


# --- in a real server ------------------------------------------------------------------------------------------------


async def test_it_streams_through_a_server_and_ends_with_it() -> None:
    session = session_of([Adds(1), Adds(2)], rounds=2)
    shown = Dashboard(session)
    app = Starlette(routes=[Mount("/fl", shown)])
    await session.run()
    async with (
        served(app, shown) as url,
        httpx.AsyncClient(base_url=url) as client,
        client.stream("GET", "/fl/events") as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and any(row[0] == "round" for row in json.loads(line[6:])):
                shown.close()
    assert (await ask(shown, "/events"))[0] == 503
