from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from federations import Adds

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import SPENT
from metisfl_async.core.strategies.privacy import epsilon_of
from metisfl_async.strategies import PrivateAverage
from metisfl_async.tracking.names import of_round
from metisfl_async.web.board import Board

pytest.importorskip("sklearn")
FILE = Path(__file__).parents[2] / "examples" / "privacy" / "digits.py"


async def test_a_private_federation_over_connections_learns_and_says_what_it_spends() -> None:
    epsilon, accuracy = await runpy.run_path(str(FILE))["run"](0.001, 5, 4)
    assert epsilon == epsilon_of(0.001, 4, 1e-3)
    assert accuracy > 0.6


async def test_it_ends_before_it_would_spend_too_much_and_the_page_says_what_is_spent(tmp_path: Path) -> None:
    budget = epsilon_of(2.0, 2, 1e-5)
    rule = PrivateAverage(1.0, 2.0, 3, 1e-5, max_epsilon=budget)
    config = ControllerConfig(aggregation_rule=rule, scaling_factor="NumParticipants")
    signals = TerminationSignals(federation_rounds=9)
    result = await DriverSession(Controller(ServerParams(), config), [Adds(n) for n in (1, 2, 3)], signals).run()
    assert (result.ending, len(result.rounds)) == (Ending.MAX_EPSILON, 2)
    assert [record.privacy["epsilon"] for record in result.rounds] == [epsilon_of(2.0, k, 1e-5) for k in (1, 2)]
    assert of_round(result.rounds[-1])["privacy/epsilon"] == budget
    assert f"privacy epsilon={budget:.4g}" in repr(result)
    assert f"privacy epsilon {budget:.4g}" in repr(result.rounds[-1])
    result.save(tmp_path / "results.json")
    assert FederationResult.load(tmp_path / "results.json").rounds[-1].privacy == result.rounds[-1].privacy
    board = Board()
    for _ in board.load(result.rounds):
        pass
    text = board.rows.since(0, len(board.rows)).text
    assert f'"{SPENT}":{{"spent":{budget:.9g}' in text
    assert f"{SPENT}, delta 1e-05" in text
