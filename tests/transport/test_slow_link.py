"""A learner whose link is slow: what moves is waited for, however long it takes."""

from __future__ import annotations

import asyncio

import pytest
from federations import PATIENCE_S, Adds
from proxy import proxy_to

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.codec import pace
from metisfl_async.events import LearnerLeft, TaskFailed
from metisfl_async.transport import grpc_host, grpc_options

pytestmark = pytest.mark.slow

SIZE = 2**21  #: parameters: 8.4 MB, which take 3.5 s
BYTES_PER_S = 2_400_000
PATIENT_S = 2.5  #: all that is set by time here; 6 MB pass in it, more than the kernel's and gRPC's buffers hold


async def test_nothing_times_out_while_bytes_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """No learner and no controller is given up for its silence, no upload and no download broken off."""
    monkeypatch.setattr(pace, "SLOW_S", 0.2)
    monkeypatch.setattr(pace, "QUICK_S", 0.05)
    monkeypatch.setattr(grpc_host, "STALL_S", PATIENT_S)
    learner = Adds(2, size=SIZE)
    lease_s = 2 * PATIENT_S  # a learner is as patient as half of it
    config = ControllerConfig(heartbeat_secs=0.2, lease_secs=lease_s, upload_idle_secs=PATIENT_S, evaluate_every=0)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        proxy_to(controller, BYTES_PER_S) as proxy,
    ):
        taking_part = asyncio.create_task(run_learner(learner, proxy.params))
        signals = TerminationSignals(federation_rounds=1)
        session = DriverSession(controller, 1, signals, initial_weights=learner.get_weights())
        running = asyncio.create_task(session.run())
        kinds = {type(event) async for event in session.events()}
        await running
        await taking_part
        assert proxy.connections == 2  # one for the large update alone
    assert not kinds & {TaskFailed, LearnerLeft}
    assert [weights[0][0] for weights in learner.taken_over] == [0.0, 2.0]


def test_a_peer_that_vanished_is_noticed_by_its_pings_and_not_by_tcp() -> None:
    """TCP's timeout, which gRPC has from that of keepalive, also counts while somebody reads slowly."""
    for options in (grpc_options.CHANNEL_OPTIONS, grpc_options.SERVER_OPTIONS):
        facts = {name: value for name, value in options if isinstance(value, int)}
        assert facts["grpc.keepalive_timeout_ms"] >= 10 * facts["grpc.http2.ping_timeout_ms"]
