"""The pictures in docs/page.md: the page of a small federation, the same on a phone, and that of 4,000 learners.

The small one trains on handwritten digits, and its learners wait so that one sees them at work; one fails now and then.
The records of the large one are made up. Needs Chromium, as the tests do, and examples/environment in PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from browser import browsing
from learners import DigitsLearner, Weights
from playwright.async_api import Browser
from playwright.async_api import Page as Tab

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    Failure,
    FederationResult,
    LearnerRecord,
    RoundRecord,
    TerminationSignals,
)
from metisfl_async.web import Page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SITES = {"clinic-north": 1.0, "clinic-south": 1.3, "clinic-west": 0.7, "university": 0.9, "laboratory": 1.6}
PATIENCE_S = 60.0


class Clinic(DigitsLearner):
    """Takes its time, and fails in some rounds."""

    def __init__(self, part: int, pace: float, failing: frozenset[int]) -> None:
        super().__init__(part, len(SITES))
        self.pace, self.failing, self.count = pace, failing, 0

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        self.count += 1
        time.sleep(0.6 * self.pace * self.rng.uniform(0.8, 1.2))
        if self.count in self.failing:
            raise MemoryError("the GPU has no room for a batch of 256 images")
        return super().train(parameters, config)

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        time.sleep(0.1 * self.pace)
        return super().evaluate(parameters, config)


def records(count: int, rounds: int) -> list[RoundRecord]:
    """Make up the records of many learners: their speeds differ, some fail often, some are lost for good."""
    draw, made = random.Random(1), []
    speeds = [draw.lognormvariate(0.0, 0.35) for _ in range(count)]
    weak = {place for place in range(count) if draw.random() < 0.02}
    lost = {place: draw.randrange(2, rounds) for place in range(count) if draw.random() < 0.01}
    for number in range(1, rounds + 1):
        at_ms, parts = 21_000.0 * (number - 1), dict[str, LearnerRecord]()
        for place in range(count):
            if lost.get(place, rounds) < number:
                continue
            train_ms = 6_000.0 * speeds[place] * draw.uniform(0.8, 1.2)
            part = LearnerRecord("", "counted", 1.0, sent_ms=at_ms, acknowledge_ms=20.0, train_ms=train_ms)
            part.ended_ms, part.bytes_sent, part.bytes_received = at_ms + train_ms + 100.0, 4_000_000, 4_000_000
            if lost.get(place) == number:
                part.train_state, part.failures = "lost", [Failure("train", "lost", "silent for lease_secs=30")]
            elif place in weak and draw.random() < 0.4:
                part.train_state, part.failures = "failed", [Failure("train", "MemoryError", "no room for a batch")]
            elif train_ms > 17_000.0:
                part.train_state, part.failures = "late", [Failure("train", "late", "round_timeout_secs=18 are over")]
            else:
                part.train_metrics = {"loss": 2.3 * 0.97**number + 0.3 * draw.random()}
                part.evaluation_metrics = {"accuracy": 0.95 - 0.85 * 0.96**number - 0.1 * draw.random()}
            parts[f"phone-{place + 1:04d}"] = part
        record = RoundRecord(number, number - 1, is_published=True, started_ms=at_ms, duration_ms=20_900.0)
        record.learners, record.train_ms, record.aggregation_block_memory_kb = parts, 18_000.0, [16_000.0]
        record.close({})
        made.append(record)
    return made


@asynccontextmanager
async def tab(browser: Browser, url: str, *, width: int, height: int, is_dark: bool) -> AsyncIterator[Tab]:
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if is_dark else "light"
    )
    opened = await context.new_page()
    await opened.goto(url)
    yield opened
    await context.close()


async def until(opened: Tab, script: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await opened.evaluate(script):  # noqa: ASYNC110 - a browser sets no event here
            await asyncio.sleep(0.05)


async def small(browser: Browser) -> None:
    """Take the page of a federation at work, on a screen and on a phone."""
    failing = {"clinic-west": frozenset({4, 7}), "laboratory": frozenset({6})}
    learners = {
        name: Clinic(part, pace, failing.get(name, frozenset())) for part, (name, pace) in enumerate(SITES.items())
    }
    test = DigitsLearner(0, 1)
    params = {"epochs": 1, "batch_size": 64, "learning_rate": 0.05}
    session = DriverSession(
        Controller(None, ControllerConfig(train_params=params, min_learners=3)),
        learners,
        TerminationSignals(federation_rounds=10),
        evaluate=lambda parameters, number: DigitsLearner.evaluate(test, parameters, {}),
    )
    async with (
        Page({"digits": session}) as page,
        tab(browser, f"{page.url}digits/", width=1200, height=920, is_dark=False) as screen,
        tab(browser, f"{page.url}digits/", width=390, height=844, is_dark=True) as phone,
    ):
        running = asyncio.create_task(session.run())
        await until(screen, "tables.round.size === 8 && run().facts[0].join() === 'round 9,3 of 5'")
        await screen.screenshot(path=IMAGES / "page.png")
        await phone.evaluate("document.getElementById('learners').scrollIntoView()")
        await phone.screenshot(path=IMAGES / "page-phone.png")
        await running


async def large(browser: Browser) -> None:
    """Take the map of four thousand learners."""
    file = IMAGES / "many.html"
    FederationResult(None, 40, records(4_000, 40), "federation_rounds=40 reached").save_page(file)
    try:
        async with tab(browser, file.as_uri(), width=1200, height=1000, is_dark=False) as opened:
            await until(opened, "lanes.cells?.(0).length === 40")
            await opened.locator("#lanes").hover(position={"x": 700, "y": 4})
            await opened.screenshot(path=IMAGES / "page-many.png")
    finally:
        file.unlink()


async def main() -> None:
    async with browsing() as browser:
        await small(browser)
        await large(browser)


if __name__ == "__main__":
    asyncio.run(main())
