"""What learners are told to count is in a published model, whoever dies meanwhile."""

from __future__ import annotations

import random

import pytest
from testing.recorded import Recorded, Trains, wrong

from metisfl_async import ControllerConfig, TerminationSignals
from metisfl_async.testing import run

NAMES = ["site-0", "site-1", "site-2"]
ROUNDS = 12
CONFIG = ControllerConfig(min_learners=3, max_failed_rounds=10_000)


@pytest.mark.parametrize("seed", range(4))
def test_no_update_is_said_to_count_that_is_in_no_published_model(seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        learners = {name: Trains(2**index, takes=chance.uniform(1.0, 10.0)) for index, name in enumerate(NAMES)}
        fed = Recorded(learners, TerminationSignals(federation_rounds=ROUNDS), controller_config=CONFIG, seed=seed)
        with fed.written_down():
            async with fed:
                while not fed.is_over:
                    await fed.restart("site-2")
                    await fed.sleep(chance.uniform(1.0, 60.0))
                result = await fed.result()
        published = [record for record in result.rounds if record.is_published]
        assert len(published) == ROUNDS
        assert [record.participants for record in published] == [NAMES] * ROUNDS
        assert all(record.participants == [] for record in result.rounds if not record.is_published)
        assert len(fed.history.told) == 3 * ROUNDS
        assert not wrong(fed, result, CONFIG, steady=set(NAMES[:2]))

    run(main())
