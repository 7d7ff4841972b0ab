"""Learners in processes of their own, killed and started again."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from federations import PATIENCE_S

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.events import LearnerJoined, RoundFinished, RoundStarted

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("killed.py")
SIZE = 2**20  #: float32 weights: four data frames and a bit


@asynccontextmanager
async def process(
    controller: Controller, learner_id: str, number: int, when: str, *own_port: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    port = str(controller.client_params.port)
    arguments = (str(PROGRAM), port, learner_id, str(number), str(SIZE), when, *own_port)
    running = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


@pytest.mark.parametrize("chunks", [0, 1, 3, 4, 5])
async def test_killed_after_k_chunks_of_its_upload_nothing_of_it_counts(chunks: int) -> None:
    config = ControllerConfig(round_timeout_secs=PATIENCE_S, heartbeat_secs=0.2, lease_secs=1.0)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        process(controller, "a", 1, "never") as a,
        process(controller, "b", 2, "never") as b,
        process(controller, "dies", 1000, f"upload:{chunks}") as dies,
    ):
        result = await DriverSession(controller, 3, TerminationSignals(federation_rounds=1)).run()
        assert await dies.wait() == -signal.SIGKILL
        assert await a.wait() == await b.wait() == 0
    assert result.final_model is not None
    assert result.final_model[0][0] == pytest.approx((1 * 1 + 2 * 2) / 3)
    record = result.rounds[0]
    assert record.participants == ["a", "b"]
    assert record.learners["dies"].failures[0].type == "lost"


async def test_killed_while_training_the_round_closes_without_it_and_started_again_it_is_in_the_next() -> None:
    config = ControllerConfig(round_timeout_secs=2.0)
    async with (
        asyncio.timeout(2 * PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        process(controller, "a", 1, "never"),
        process(controller, "b", 2, "never"),
    ):
        session = DriverSession(controller, 3, TerminationSignals(federation_rounds=1_000_000))
        running = asyncio.create_task(session.run())
        async with process(controller, "dies", 3, "train") as dies:
            assert await dies.wait() == -signal.SIGKILL
        cohorts: dict[int, list[str]] = {}
        again = None
        async for event in session.events():
            match event:
                case RoundStarted(number, _, cohort):
                    cohorts[number] = cohort
                case RoundFinished(record) if record.number == 1:
                    assert record.participants == ["a", "b"]
                    assert record.learners["dies"].failures[0].type == "expired"
                    again = process(controller, "dies", 3, "never")
                    await again.__aenter__()
                case RoundFinished(record) if record.participants == ["a", "b", "dies"]:
                    await session.stop()
        result = await running
        assert again is not None
        await again.__aexit__(None, None, None)
    assert cohorts[1] == ["a", "b", "dies"]
    assert result.rounds[-1].participants == ["a", "b", "dies"] or result.rounds[-2].participants == ["a", "b", "dies"]


async def test_a_listening_learner_killed_while_training_and_started_again_on_its_port_is_taken_up_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with asyncio.timeout(2 * PATIENCE_S), Controller(ServerParams()) as controller:  # a lease is 60 s
        session = DriverSession(controller, [ServerParams(port=port)], TerminationSignals(federation_rounds=1))
        running = asyncio.create_task(session.run())
        async with process(controller, "a", 2, "train", str(port)) as dies:
            assert await dies.wait() == -signal.SIGKILL
        async with process(controller, "a", 2, "never", str(port)) as again:
            result = await running
            assert await again.wait() == 0
    assert [record.participants for record in result.rounds] == [[], ["a"]]
    assert result.rounds[0].learners["a"].failures[0].type == "lost"


async def test_learners_started_before_the_controller_wait_for_it() -> None:
    async with Controller(ServerParams()) as first:
        port = first.client_params.port
        async with process(first, "a", 1, "never") as a:
            await first.close()
            async with Controller(ServerParams(port=port)) as controller:
                session = DriverSession(controller, 1, TerminationSignals(federation_rounds=1))
                running = asyncio.create_task(session.run())
                joined = [event async for event in session.events() if isinstance(event, LearnerJoined)]
                await running
                assert [event.learner for event in joined] == ["a"]
                assert await a.wait() == 0
