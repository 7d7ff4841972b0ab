from __future__ import annotations

import pytest

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.termination import reason_to_stop


@pytest.mark.parametrize(("next_epsilon", "ends"), [(3.0, False), (3.5, True)])
def test_it_ends_before_a_model_that_would_spend_too_much(next_epsilon: float, ends: bool) -> None:
    privacy = {"epsilon": 2.5, "next_epsilon": next_epsilon, "max_epsilon": 3.0}
    record, signals = RoundRecord(1, 0, True, privacy=privacy), TerminationSignals(federation_rounds=9)
    reached = reason_to_stop(signals, Standing(), record, ControllerConfig(), [])
    assert (reached is not None and reached[1] is Ending.MAX_EPSILON) is ends
