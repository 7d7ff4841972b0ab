"""A controller that is killed without a durable store, and one that is stopped for longer than a lease."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from durability import history
from durability.parties import Trains, controller, first_weights, free_port, started, take_part
from federations import PATIENCE_S, until

from metisfl_async import ClientParams, ControllerConfig, DriverSession, ModelStoreConfig, TerminationSignals
from metisfl_async.core.errors import UnknownFederation
from metisfl_async.core.federation.events import LearnerLeft
from metisfl_async.strategies import FedBuff

pytestmark = pytest.mark.slow

CONFIG = ControllerConfig(
    aggregation_rule=FedBuff(5), scheduler="Asynchronous", min_learners=2, heartbeat_secs=0.2, lease_secs=2.0
)
SIGNALS = TerminationSignals(global_updates=4)


async def test_what_learners_hold_of_a_controller_that_kept_nothing_is_in_no_later_federation(tmp_path: Path) -> None:
    before, after, port = tmp_path / "before", tmp_path / "after", free_port()
    process = started(controller, before, port, CONFIG, ModelStoreConfig())
    logs = [tmp_path / f"site-{index}" for index in range(2)]

    def told(what: str, index: int) -> int:
        return sum(line["what"] == what for line in history.lines_of(logs[index])) if logs[index].exists() else 0

    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for index, log in enumerate(logs):
                group.create_task(take_part(log, port, f"site-{index}", Trains(2**index, 0.01)))
            first = DriverSession(ClientParams(port=port), 2, SIGNALS, initial_weights=first_weights())
            running = group.create_task(_fails(first))
            await until(lambda: told("answered", 0) > 0 and told("answered", 1) > 0)
            process.kill()
            process.join()
            process = started(controller, after, port, CONFIG, ModelStoreConfig())
            await running
            held = {line["task"] for log in logs for line in history.lines_of(log) if line["what"] == "trained"}
            second = DriverSession(ClientParams(port=port), 2, SIGNALS, initial_weights=first_weights())
            result = await second.run()
        await until(lambda: not process.is_alive())
    finally:
        process.kill()
    of_first, of_second = history.read(before), history.read(after)
    in_first, in_second = (
        {update.task for updates in of.versions.values() for update in updates} for of in (of_first, of_second)
    )
    assert not in_first & in_second
    assert len(of_second.versions) == len(result.rounds) == 4
    lines = [line for log in logs for line in history.lines_of(log)]
    counted = {line["task"] for line in lines if line["what"] == "told"}
    dropped = {line["task"] for line in lines if line["what"] == "dropped"}
    assert counted <= in_first | in_second
    assert held <= in_first | dropped
    assert not of_second.check(result.rounds)


async def _fails(session: DriverSession) -> None:
    """Follow a federation until the controller, which was started again, says that it does not know it."""
    try:
        await session.run()
    except UnknownFederation:
        return
    raise AssertionError("it went on")


async def test_a_controller_that_is_stopped_for_longer_than_a_lease_gives_nobody_up(tmp_path: Path) -> None:
    path, port = tmp_path / "log", free_port()
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path / "store")
    process = started(controller, path, port, CONFIG, store)
    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for index in range(2):
                group.create_task(take_part(path, port, f"site-{index}", Trains(2**index, 0.05)))
            session = DriverSession(ClientParams(port=port), 2, SIGNALS, initial_weights=first_weights())
            running = group.create_task(session.run())
            await until(lambda: '"committed"' in path.read_text() if path.exists() else False)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(1.5 * CONFIG.lease_secs)
            os.kill(process.pid, signal.SIGCONT)
            result = await running
        await until(lambda: not process.is_alive())
    finally:
        process.kill()
    told = history.read(path)
    assert not told.check(result.rounds)
    # The answer to an evaluation may have been lost on a connection that broke meanwhile.
    assert set(told.dropped.values()) <= {"the federation ended", "its result is known"}
    silent = [event async for event in session.events() if isinstance(event, LearnerLeft) and "silent" in event.reason]
    assert not silent
