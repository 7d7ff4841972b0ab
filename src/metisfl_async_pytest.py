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
MADE: pytest.StashKey[list[Federation]] = pytest.StashKey()
LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


@pytest.fixture
def federation(request: pytest.FixtureRequest) -> Callable[..., Federation]:
    """Make federations in virtual time: ``async with federation(learners, signals) as fed:``.

    The arguments are those of `metisfl_async.testing.Federation`.
    """
    from metisfl_async.testing import Federation

    seed: int | None = request.config.getoption("federation_seed")

    made = request.node.stash[MADE] = []

    def new_federation(*args: Any, **options: Any) -> Federation:
        made.append(Federation(*args, **(options if seed is None else {**options, "seed": seed})))
        return made[-1]

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of a test that failed what went on in its federations, unless its error says so."""
    report = yield
    if report.failed and call.excinfo is not None:
        notes = "\n".join(getattr(call.excinfo.value, "__notes__", ()))
        told = [text for made in item.stash.get(MADE, []) if made.log and (text := made.report()) not in notes]
        report.sections += [("federation", text) for text in told]
    return report
