from __future__ import annotations

import pytest

from metisfl_async.core.config import ClientParams, TerminationSignals
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import AskRequest, Outcome, StartRequest, UpdateReply


@pytest.mark.parametrize("outcome", Outcome)
def test_an_update_is_taken_when_it_is_folded_or_counted(outcome: Outcome) -> None:
    reply = UpdateReply(outcome)
    assert reply.is_taken == (outcome in (Outcome.FOLDED, Outcome.COUNTED))
    assert reply.is_counted == (outcome is Outcome.COUNTED)


def test_a_question_waits_for_the_learners_that_a_federation_waits_for() -> None:
    learners = (ClientParams("site-1.example", 50052),)
    start = StartRequest(TerminationSignals(federation_rounds=1), 3, 1990, 60.0, FederationId("f"), learners)
    question = AskRequest("describe", {"of": "age"}, 5.0)
    assert question.once_there(start) == AskRequest("describe", {"of": "age"}, 5.0, 3, 60.0, learners)
