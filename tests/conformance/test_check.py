"""Our learners pass all cases; learners that do wrong are told which, and why."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from federations import Adds
from proxy import proxy_to_port

from metisfl_async import ClientParams, ConfigError, Learner, run_learner
from metisfl_async.conformance import CASES, Verdict, check_learner
from metisfl_async.core.model import Array
from metisfl_async.errors import TransportError
from metisfl_async.learner.learner import Config, TrainResult

Start = Callable[[ClientParams], Coroutine[Any, Any, None]]


async def checked(start: Start, **options: Any) -> dict[str, str]:
    """Check a learner that begins once it is waited for, and give what failed, and why."""
    taking_part: list[asyncio.Task[None]] = []

    def begin(port: int) -> None:
        taking_part.append(asyncio.create_task(start(ClientParams(port=port))))

    verdicts: list[Verdict] = await check_learner("127.0.0.1", 0, on_listening=begin, **options)
    for task in taking_part:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return {verdict.case.name: verdict.why for verdict in verdicts if verdict.why}


def taking_part(learner: Learner) -> Start:
    async def start(params: ClientParams) -> None:
        await run_learner(learner, params, learner_id="mine")

    return start


async def test_a_learner_of_ours_passes_all_cases() -> None:
    seen: list[Verdict] = []
    assert await checked(taking_part(Adds(1, size=5000)), on_verdict=seen.append) == {}
    assert [verdict.case for verdict in seen] == list(CASES)


async def test_an_address_that_cannot_be_listened_at_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"127.0.0.1:{port}: cannot listen there"):
            await check_learner("127.0.0.1", port)
    with pytest.raises(ConfigError, match="port is 99999; allowed: an integer >= 0 and <= 65535"):
        await check_learner("127.0.0.1", 99999)


class WrongShape(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        return [np.zeros(3, np.float32), parameters[1]], {}


async def test_a_wrong_update_is_told_and_nothing_more_is_tried() -> None:
    failed = await checked(taking_part(WrongShape(1)))
    assert list(failed) == ["takes part"]
    assert "is 'float32[3]'; allowed: float32[1]" in failed["takes part"]


async def test_one_that_does_not_come_back_is_found_out() -> None:
    async def fragile(params: ClientParams) -> None:
        async with proxy_to_port(params.port) as proxy:
            proxy.most_connections = 1
            await run_learner(Adds(1), proxy.params, learner_id="mine")

    failed = await checked(fragile, case_timeout_secs=8)
    assert failed["broken connection"] == "it was not over within 8 s"


async def test_nobody_comes() -> None:
    async def nothing(params: ClientParams) -> None:
        pass

    failed = await checked(nothing, case_timeout_secs=0.3)
    assert list(failed) == ["takes part"]
