"""The strategies that docs/strategies.md shows are run as they stand there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pages import ROOT, blocks

from metisfl_async import ControllerConfig, FederationResult


def names() -> dict[str, Any]:
    """Run the page from top to bottom."""
    shown: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "strategies.md"):
        exec(block, shown)
    return shown


def test_all_four_at_work(capsys: pytest.CaptureFixture[str]) -> None:
    shown = names()
    result: FederationResult = shown["result"]
    assert len(result.rounds) == 10
    assert result.final_model is not None
    np.testing.assert_allclose(result.final_model[0], 5.0, atol=0.3)
    assert all(len(record.learners) == 3 for record in result.rounds)
    assert [sorted(record.learners) for record in result.rounds[:2]] == [
        ["learner-0", "learner-1", "learner-2"],
        ["learner-0", "learner-3", "learner-4"],
    ]
    assert "FederationResult" in capsys.readouterr().out
    config: ControllerConfig = shown["config"]
    assert config.params_hook is not None
    assert config.params_hook("train", 2, "site", {"learning_rate": 1.0}) == {"learning_rate": 0.02}
    assert config.params_hook("train", 4, "site", {"learning_rate": 1.0}) == {"learning_rate": 1.0}
