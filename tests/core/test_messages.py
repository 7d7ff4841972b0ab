from __future__ import annotations

import pytest

from metisfl_async.core.messages import Outcome, UpdateReply


@pytest.mark.parametrize("outcome", Outcome)
def test_an_update_is_taken_when_it_is_folded_or_counted(outcome: Outcome) -> None:
    reply = UpdateReply(outcome)
    assert reply.is_taken == (outcome in (Outcome.FOLDED, Outcome.COUNTED))
    assert reply.is_counted == (outcome is Outcome.COUNTED)
