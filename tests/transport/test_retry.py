"""Trying again: whatever passes is waited out while it may be, and said at the 1st, 2nd, 4th, 8th, ... failure."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

import pytest

from metisfl_async.core.errors import ConnectionLost, MetisError, UnexpectedMessage
from metisfl_async.transport.retry import FIRST_BACKOFF_S, MAX_BACKOFF_S, insisting


@pytest.fixture
def longest_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have no pauses; the list is of how long each might have been."""
    longest: list[float] = []

    def no_time(least: float, most: float) -> float:
        longest.append(most)
        return least

    monkeypatch.setattr(random, "uniform", no_time)
    return longest


def failing(times: int, error: MetisError) -> Callable[[str], asyncio.Future[str]]:
    """Make a call that fails so often, and then returns what it is given."""
    left = iter(range(times))

    def call(given: str) -> asyncio.Future[str]:
        answer = asyncio.get_running_loop().create_future()
        if next(left, None) is None:
            answer.set_result(given)
        else:
            answer.set_exception(error)
        return answer

    return call


async def test_pauses_grow_and_fewer_and_fewer_failures_are_logged(
    longest_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    call = failing(1_100, ConnectionLost("there", "nobody listens"))
    with caplog.at_level(logging.WARNING):
        assert await insisting("site-1", "there", None, call, "an answer") == "an answer"
    assert longest_s[:4] == pytest.approx([FIRST_BACKOFF_S * 2**exponent for exponent in range(4)])
    assert longest_s[-1] == MAX_BACKOFF_S
    assert caplog.messages == ["site-1 waits for there: nobody listens"] * 11  # 1, 2, 4, ... 1,024


async def test_after_its_time_the_last_error_is_raised(longest_s: list[float]) -> None:
    with pytest.raises(ConnectionLost, match="nobody listens"):
        await insisting("site-1", "there", 0.0, failing(1, ConnectionLost("there", "nobody listens")), "")
    assert not longest_s


async def test_what_does_not_pass_is_raised_at_once(longest_s: list[float]) -> None:
    with pytest.raises(UnexpectedMessage, match="never"):
        await insisting("site-1", "there", None, failing(1, UnexpectedMessage("never")), "")
    assert not longest_s
