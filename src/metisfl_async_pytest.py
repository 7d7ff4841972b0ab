"""The pytest plugin of `metisfl_async.testing`: the fixture `federation`, and what went on when a test with it failed.

It is a module of its own so that pytest, which loads it always, loads nothing else before a test asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from metisfl_async.testing import Federation

__all__ = ["federation"]

FIXTURE = "federation"
LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


@pytest.fixture
def federation(request: pytest.FixtureRequest) -> Callable[..., Federation]:
    """Make federations in virtual time: ``async with federation(learners, signals) as fed:``.

    The arguments are those of `metisfl_async.testing.Federation`.
    """
    from metisfl_async.testing import Federation

    seed: int | None = request.config.getoption("federation_seed")

    def new_federation(*args: Any, **options: Any) -> Federation:
        return Federation(*args, **(options if seed is None else {**options, "seed": seed}))

    return new_federation


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("metisfl_async")
    group.addoption("--federation-seed", type=int, help="the seed of all federations of the fixture, whatever they say")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Generator[None, LoopFactories | None, LoopFactories]:
    """Give tests with the fixture a virtual loop, and leave others the loop that they have."""
    factories = yield
    if FIXTURE in getattr(item, "fixturenames", ()):
        from metisfl_async.testing import VirtualLoop

        return {"virtual": VirtualLoop}
    return factories or {"asyncio": asyncio.new_event_loop}
