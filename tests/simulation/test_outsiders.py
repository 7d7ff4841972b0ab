"""Learners of other machines beside simulated ones: they take nobody's place."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import simulated
from federations import PATIENCE_S, Adds

from metisfl_async import (
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    Simulation,
    TerminationSignals,
    run_learner,
)
from metisfl_async.cli.certificates import make_certificates
from metisfl_async.cli.tokens import add_tokens
from metisfl_async.core.access import Identity, Role
from metisfl_async.events import RoundFinished, RoundStarted

TWICE = Identity(Role.LEARNER, "learner-1")


@pytest.mark.parametrize("is_proved", [True, False])
async def test_an_outsider_with_the_name_of_a_simulated_learner_is_refused_and_disturbs_nobody(
    tmp_path: Path, is_proved: bool
) -> None:
    make_certificates(tmp_path, ["server"], [], 30, identities=[], force=False)
    secret = dict(add_tokens(tmp_path / "tokens.txt", [TWICE]))[TWICE]
    files = (tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key")
    params = ServerParams("127.0.0.1", 0, *files, tokens=tmp_path / "tokens.txt") if is_proved else ServerParams()
    with ThreadPoolExecutor(2) as threads:
        async with asyncio.timeout(PATIENCE_S), Controller(params, ControllerConfig()) as controller:
            simulation = Simulation(simulated.Draws, learners=3, executor=threads)
            session = DriverSession(controller, simulation, TerminationSignals(federation_rounds=10**6))
            running = asyncio.create_task(session.run())
            events = session.events()
            await anext(event async for event in events if isinstance(event, RoundStarted))
            client = replace(controller.client_params, token=secret) if is_proved else controller.client_params
            with pytest.raises(ConfigError, match="learner_id is 'learner-1'; allowed: an id that no simulated"):
                await run_learner(Adds(1), client, learner_id=TWICE.name)
            later = await anext(event async for event in events if isinstance(event, RoundStarted))
            finished = (event async for event in events if isinstance(event, RoundFinished))
            await anext(event async for event in finished if event.record.number >= later.number)
            await session.stop()
            result = await running
    published = [record for record in result.rounds if record.participants]
    assert len(published) >= later.number
    assert {tuple(record.participants) for record in published} == {("learner-0", "learner-1", "learner-2")}
