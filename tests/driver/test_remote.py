"""A session whose controller and learners run elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from federations import Adds, nothing_left_behind

from metisfl_async import ClientParams, Controller, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.errors import ConfigError

SIGNALS = TerminationSignals(federation_rounds=2)
ELSEWHERE = ClientParams("127.0.0.1", 50051)


async def test_it_waits_for_learners_that_dial_in() -> None:
    async with nothing_left_behind(), Controller(ServerParams()) as controller:
        params = controller.client_params
        learners = [asyncio.create_task(run_learner(Adds(number), params)) for number in (1, 3)]
        session = DriverSession.remote(params, SIGNALS, wait_for=2, initial_weights=[np.zeros(1)], lost_secs=30.0)
        result = await session.run()
        await asyncio.gather(*learners)
    assert [len(record.participants) for record in result.rounds] == [2, 2]
    assert result.first_weights == "given"


@pytest.mark.parametrize(
    ("controller", "wait_for", "field"),
    [
        (Controller(), 3, "controller"),
        (ELSEWHERE, [Adds(1)], "wait_for"),
        (ELSEWHERE, [], "wait_for"),
        (ELSEWHERE, "3", "wait_for"),
        (ELSEWHERE, 0, "learners"),
    ],
)
def test_what_is_in_this_process_is_refused(controller: Any, wait_for: Any, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DriverSession.remote(controller, SIGNALS, wait_for=wait_for)
    assert refused.value.field == field
