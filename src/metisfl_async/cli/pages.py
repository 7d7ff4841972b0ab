"""The live page of a command, and the page of what it has saved."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import click

from metisfl_async.core.errors import ConfigError
from metisfl_async.driver.result import FederationResult
from metisfl_async.web.feed import Watched
from metisfl_async.web.page import Page

__all__ = ["page", "page_option", "showing"]

logger = logging.getLogger("metisfl_async.cli")

T = TypeVar("T")


def _checked(context: click.Context, parameter: click.Parameter, is_wanted: bool) -> bool:
    """See that there is what serves a page, before anything is begun."""
    if is_wanted and find_spec("uvicorn") is None:
        raise ConfigError("--page", "uvicorn is not installed", "pip install uvicorn")
    return is_wanted


page_option = click.option(
    "--page",
    "has_page",
    is_flag=True,
    callback=_checked,
    help="Show how it goes on a page for a browser on this machine, and say its address.",
)


async def showing(watched: Watched, has_page: bool, work: Callable[[], Awaitable[T]]) -> T:
    """Do something; with a page, show it meanwhile."""
    if not has_page:
        return await work()
    async with Page(watched) as shown:
        logger.info("the page is at %s", shown.url)
        return await work()


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to; without it, page.html beside the results.",
)
def page(results: Path, output: Path | None) -> None:
    """Write a page that shows a run and replays it: one file, which needs no server.

    RESULTS is a results.json, or a directory with one.

    \b
    Example:
      metisfl-async page results/results.json
    """
    result = FederationResult.load(results)
    file = output or (results if results.is_dir() else results.parent) / "page.html"
    try:
        result.save_page(file)
    except OSError as error:
        raise ConfigError("--output", str(file), f"a file that can be written ({error.strerror})") from error
    click.echo(file)
