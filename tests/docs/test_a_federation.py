from federations import Adds  # a learner of yours

from metisfl_async import Controller, DriverSession, TerminationSignals


async def test_my_learners_agree_after_three_rounds() -> None:
    session = DriverSession(Controller(), [Adds(1), Adds(2)], TerminationSignals(federation_rounds=3))
    result = await session.run()
    assert [record.participants for record in result.rounds] == [["learner-0", "learner-1"]] * 3
    assert result.rounds[-1].evaluation_metrics["accuracy"] > 4.9
