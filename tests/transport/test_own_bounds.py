"""Whoever dials has bounds of its own on what it takes, whatever the controller allows."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from federations import PATIENCE_S, Adds

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.errors import TooLarge
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import JoinRequest
from metisfl_async.transport.grpc_link import GrpcLink

START = Adds(1).get_weights()
ROUND = TerminationSignals(federation_rounds=1)


async def test_a_learner_takes_no_larger_model_than_it_wants() -> None:
    async with asyncio.timeout(PATIENCE_S):
        config = ControllerConfig(evaluate_every=0, quorum_timeout_secs=30)
        async with Controller(ServerParams(), config) as controller, asyncio.TaskGroup() as learners:
            modest = replace(controller.client_params, max_model_bytes=8)
            learners.create_task(run_learner(Adds(1), controller.client_params, learner_id="open"))
            learners.create_task(run_learner(Adds(5), modest, learner_id="modest"))
            result = await DriverSession(controller, 2, ROUND, initial_weights=START).run()
    (record,) = result.rounds
    assert record.participants == ["open"]
    (failure,) = record.learners["modest"].failures
    assert (failure.type, failure.message.split(";")[1]) == ("TooLarge", " at most max_model_bytes=8")
    assert result.final_model is not None
    assert result.final_model[0].tolist() == [1.0]


async def test_a_learner_hears_of_the_smaller_of_both_bounds() -> None:
    async with Controller(ServerParams(), ControllerConfig(max_model_bytes=1000)) as controller:
        for own, bound in ((2000, 1000), (500, 500)):
            link = GrpcLink(replace(controller.client_params, max_model_bytes=own))
            assert (await link.join(JoinRequest(LearnerId(f"a{own}"), Token("")))).max_model_bytes == bound
            await link.close()


async def test_a_driver_takes_no_larger_result_than_it_wants() -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller, asyncio.TaskGroup() as learners:
        learners.create_task(run_learner(Adds(1), controller.client_params))
        params = replace(controller.client_params, max_model_bytes=8)
        with pytest.raises(TooLarge, match="at most max_model_bytes=8"):
            await DriverSession(params, 1, ROUND).run()
