"""The page in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browser import browsing, opened
from federations import Adds, AddsOnLoop, session_of
from playwright.async_api import Browser
from starlette.applications import Starlette
from starlette.routing import Mount
from viewers import Source, served

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    Failure,
    FederationResult,
    LearnerRecord,
    RoundRecord,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.events import FederationFinished, FederationStarted, RoundFinished
from metisfl_async.web import Dashboard, Page, page

pytestmark = pytest.mark.asyncio(loop_scope="module")

NASTY = "<img src=x onerror=alert(1)>"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with browsing() as running:
        yield running


def many(count: int, rounds: int) -> list[RoundRecord]:
    """Make up the records of many learners, of whom some fail."""
    made = []
    for number in range(1, rounds + 1):
        at_ms, learners = 10_000.0 * number, dict[str, LearnerRecord]()
        for place in range(count):
            part = LearnerRecord(
                f"{number}-{place}", "counted", 1.0, sent_ms=at_ms, acknowledge_ms=10.0, train_ms=5_000.0
            )
            part.ended_ms, part.train_metrics = at_ms + 1_000 + place % 9_000, {"loss": 1.0 / number + place / count}
            if place % 97 == 5:
                part.train_state, part.failures = "failed", [Failure("train", "MemoryError", NASTY)]
            learners[f"site-{place:04}"] = part
        record = RoundRecord(
            number, number - 1, is_published=True, started_ms=at_ms, duration_ms=9_900.0, learners=learners
        )
        record.train_ms = 9_800.0
        record.close({})
        made.append(record)
    return made


async def test_charts_fill_during_a_federation_and_a_learner_that_dies_turns_red(browser: Browser) -> None:
    learners = {name: AddsOnLoop(number) for number, name in enumerate(("site-1", "site-2", NASTY), start=1)}
    config = ControllerConfig(min_learners=2, heartbeat_secs=0.2, lease_secs=1.0)
    async with Controller(ServerParams(), config) as controller, asyncio.TaskGroup() as group:
        session = DriverSession(controller, 3, TerminationSignals(federation_rounds=3))
        async with Page(session) as shown, opened(browser, shown.url) as watching:
            await watching.until("document.querySelector('#phase').textContent === 'waiting'")
            running = group.create_task(session.run())
            learners[NASTY].may_train.clear()
            of_each = {
                name: group.create_task(run_learner(learner, controller.client_params, learner_id=name))
                for name, learner in learners.items()
            }
            await learners[NASTY].is_training.wait()
            await watching.until("tables.task.size >= 3")
            await watching.until("document.querySelector('#facts').textContent.includes('2 of 3')")
            assert await watching.pixels("T") > 0
            assert await watching.pixels("failed") == 0
            of_each[NASTY].cancel()
            result = await running
            await watching.until("document.querySelector('#phase').textContent === 'finished'")
            assert await watching.pixels("failed") > 0
            assert await watching.page.locator("#metric-charts figure").count() == len({"accuracy", "loss"})
            assert "evaluation" in await watching.text("#metric-charts figure:nth-child(2)")
            said = await watching.page.locator("#metric-charts [role=img] >> nth=1").get_attribute("aria-label")
            accuracy = result.rounds[-1].evaluation_metrics["accuracy"]
            assert said == f"accuracy: evaluation {accuracy:.4g}"
            await watching.page.locator("#failures summary").first.click()
            assert NASTY in await watching.text("#failures summary >> nth=0")
            assert "silent for lease_secs=1" in await watching.text("#failures pre >> nth=0")
            watching.check()


async def test_it_goes_on_after_its_server_was_started_again(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr(page, "PORT", free_port)
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    session = session_of([learner], rounds=3)
    running = asyncio.create_task(session.run())
    async with Page(session) as shown, opened(browser, shown.url) as watching:
        await watching.until("run()?.phase === 'running'")
        await shown.close()
        await watching.until("document.querySelector('#link').textContent.startsWith('connection lost')")
        learner.may_train.set()
        await running
        async with Page(session) as again:
            assert again.url == shown.url
            await watching.until("run()?.phase === 'finished' && tables.round.size === 3")
            assert await watching.text("#link") == ""


async def test_four_thousand_learners_are_one_picture_that_can_be_read(browser: Browser) -> None:
    source = Source()
    source.log.append(FederationStarted("f" * 32, "0" * 16))
    for record in many(4_000, 2):
        source.log.append(RoundFinished(record))
    source.log.append(FederationFinished("federation_rounds=2 reached"))
    async with Page(source) as shown, opened(browser, shown.url) as watching:
        await watching.until("tables.round.size === 2 && !isLive()")
        await watching.until("lanes.cells?.(0).length === 2")
        assert await watching.pixels("failed") > 100
        await watching.page.locator("#lanes").click(position={"x": 60, "y": 2})
        chosen = await watching.page.locator("#find").input_value()
        assert int(chosen.removeprefix("site-")) % 97 == 5  # those that fail come first
        await watching.until("lanes.learners.length === 1 && lanes.cells(0).length > 0")
        assert "MemoryError" in await watching.text("#failures")
        await watching.page.locator("#each summary").click()
        await watching.until("document.querySelectorAll('#each tbody tr').length === 1")
        watching.check()


async def test_a_saved_page_replays_the_run_without_any_server(browser: Browser, tmp_path: Path) -> None:
    result = await session_of([Adds(1), Adds(2)], rounds=5).run()
    result.rounds[2].learners["learner-0"].failures.append(Failure("train", NASTY, f"</script>{NASTY}"))
    result.rounds[2].train_metrics |= {"constructor": 1.0, "__proto__": 2.0, NASTY: 3.0}
    result.save_page(tmp_path / "run.html")
    url = (tmp_path / "run.html").as_uri()
    async with opened(browser, url) as watching:
        await watching.until("document.querySelector('#facts dd')?.textContent === '5'")
        captions = await watching.page.locator("#metric-charts figcaption").all_inner_texts()
        assert captions == ["loss", "accuracy", NASTY, "__proto__", "constructor"]
        await watching.page.get_by_text("training").first.click()
        assert await watching.page.evaluate("metrics.plots[0].series.filter(({ show }) => !show).length") == 1
        await watching.page.locator("#rounds summary").click()
        assert NASTY in await watching.text("#rounds thead")
        await watching.page.locator("#failures summary").click()
        assert f"</script>{NASTY}" in await watching.text("#failures pre")
        end_ms = result.rounds[2].started_ms + result.rounds[2].duration_ms
        await watching.page.evaluate("(ms) => goTo(ms)", end_ms - 0.5)
        await watching.until("document.querySelector('#facts dd')?.textContent === '2'")
        await watching.page.locator("#play").click()
        await watching.until("document.querySelector('#facts dd')?.textContent === '3'")
        await watching.page.locator("#play").click()
        await watching.page.locator("#at").fill("0")
        await watching.until("document.querySelector('#facts dd')?.textContent === '0'")
        await watching.page.locator("#now").click()
        await watching.until("document.querySelector('#facts dd')?.textContent === '5'")
        watching.check()
        assert watching.asked == {url}


@pytest.mark.parametrize("count", [3, 200])
@pytest.mark.parametrize("colours", ["light", "dark"])
async def test_it_fits_a_phone_and_goes_without_a_mouse(
    browser: Browser, tmp_path: Path, colours: str, count: int
) -> None:
    FederationResult(None, 6, many(count, 6), "enough").save_page(tmp_path / "run.html")
    url = (tmp_path / "run.html").as_uri()
    screen = {"width": 360, "height": 740}
    async with opened(browser, url, viewport=screen, color_scheme=colours, has_touch=True) as watching:
        await watching.until("tables.round.size === 6")
        assert await watching.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await watching.until("lanes.cells?.(0).length > 1")
        await watching.page.locator("#lanes").focus()
        told = set()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown"):
            await watching.page.keyboard.press(key)
            told.add(await watching.text("#told"))
        assert len(told) == 4
        of_each = "(e) => e.textContent || e.labels?.length || e.ariaLabel"
        names = await watching.page.evaluate(f"[...document.querySelectorAll('button, select, input')].map({of_each})")
        assert all(names)
        watching.check()


async def test_the_stop_button_asks_for_the_token(browser: Browser) -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    session = session_of([learner], rounds=3)
    running = asyncio.create_task(session.run())
    app = Dashboard(session, allow_stop=True, token="secret")
    async with served(app, app) as url, opened(browser, url) as watching:
        await watching.until("run()?.phase === 'running'")
        for token, answer in (("wrong", "the token is wrong"), ("secret", "it ends")):
            if token == "wrong":
                await watching.page.locator("#stop").click()
            await watching.page.locator("#token").fill(token)
            await watching.page.locator("button[value=stop]").click()
            if token == "secret":
                assert (await running).reason == "the page's stop button"
            else:
                await watching.until(f"document.querySelector('#answer').textContent === '{answer}'")
                assert not running.done()
        await watching.until("run()?.phase === 'finished'")


async def test_in_a_mounted_app_the_page_of_each_session_is_under_its_name(browser: Browser) -> None:
    session = session_of([Adds(1)], rounds=2)
    await session.run()
    shown = Dashboard({"a b": session, "other": Source()})
    app = Starlette(routes=[Mount("/fl", shown)])
    async with served(app, shown) as url, opened(browser, f"{url}/fl") as watching:
        await watching.page.get_by_role("link", name="a b").click()
        await watching.until("document.querySelector('#name').textContent === 'a b' && tables.round.size === 2")
        watching.check()
