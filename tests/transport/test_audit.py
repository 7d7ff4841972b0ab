"""The audit is lines of JSON for programs, and words for people."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest
from federations import Adds

from metisfl_async import Controller, DriverSession, ServerParams, TerminationSignals
from metisfl_async.core.access import Caller, Identity, Role
from metisfl_async.transport.audit import AUDIT, Audit, in_words


async def test_a_line_says_who_did_what_when_and_from_where(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT)
    caller = Caller("ipv6:%5B::1%5D:5", Identity(Role.LEARNER, "site-1"))
    Audit().note("joined", caller, learner="site-1", incarnation=2)
    (line,) = caplog.messages
    facts = json.loads(line)
    assert datetime.fromisoformat(facts.pop("at")).tzinfo is not None
    assert facts == {
        "what": "joined",
        "who": str(caller.identity),
        "peer": "ipv6:[::1]:5",
        "learner": "site-1",
        "incarnation": 2,
    }
    assert in_words(line) == f'audit: joined: {caller.identity} at ipv6:[::1]:5, learner="site-1", incarnation=2'


async def test_words_have_nothing_that_a_terminal_obeys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, AUDIT)
    Audit().note("refused", Caller("unix:%1B[0m\n"), method="Get\x1bStatus")
    (line,) = caplog.messages
    assert in_words(line) == 'audit: refused: somebody at unix:\\x1b[0m\\n, method="Get\\u001bStatus"'


@pytest.mark.parametrize("has_port", [False, True])
async def test_a_controller_that_nobody_else_can_reach_writes_none(
    has_port: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, AUDIT)
    await DriverSession(
        Controller(ServerParams() if has_port else None), [Adds(1)], TerminationSignals(federation_rounds=1)
    ).run()
    written = [json.loads(record.getMessage())["what"] for record in caplog.records if record.name == AUDIT]
    assert sorted(written) == (["joined", "shut down", "started"] if has_port else [])
