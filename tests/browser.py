"""A real browser without a window, for pages that must not complain and must ask no other host."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from federations import PATIENCE_S
from playwright.async_api import Browser, Page, async_playwright

__all__ = ["Watching", "browsing", "opened"]

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
OPTIONS += ["--disable-component-update", "--disable-sync"]


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run the browser that is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise RuntimeError("Chromium is not installed; as root: sh tests/get_chromium.sh")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        await browser.close()


class Watching:
    """What a page has complained of, and whom it has asked."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.complaints, self.asked = page, list[str](), set[str]()
        page.on("console", lambda message: self.complaints.extend([message.text] * (message.type == "error")))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("request", lambda request: self.asked.add(request.url))
        self._url = url

    def check(self) -> None:
        assert not self.complaints, self.complaints
        assert all(url.startswith(self._url) for url in self.asked), self.asked

    async def pixels(self, name: str) -> int:
        """Count the pixels of the learners' picture that have a colour of the page."""
        script = """(name) => {
            const probe = document.createElement("canvas").getContext("2d");
            probe.fillStyle = css(name);
            probe.fillRect(0, 0, 1, 1);
            const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
            const canvas = document.getElementById("lanes");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) count += data[i] === r && data[i + 1] === g && data[i + 2] === b;
            return count;
        }"""
        count: int = await self.page.evaluate(script, name)
        return count

    async def text(self, selector: str) -> str:
        return await self.page.locator(selector).inner_text()

    async def until(self, script: str) -> None:
        """Wait until a JavaScript expression is true. Playwright's own way to wait is against the page's policy."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.page.evaluate(script):  # noqa: ASYNC110 - a browser sets no event here
                await asyncio.sleep(0.02)


@asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncIterator[Watching]:
    """Open a page."""
    context = await browser.new_context(**options)
    watching = Watching(await context.new_page(), url)
    await watching.page.goto(url)
    yield watching
    await context.close()
