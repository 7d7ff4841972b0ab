"""What a learner's methods return, on its way to the controller."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, session_of

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.core.model import Model
from metisfl_async.learner.outcome import packed_result, text_of


def test_an_update_has_the_names_of_the_model_it_was_trained_from() -> None:
    trained_from = Model.from_arrays([np.zeros(2), np.zeros(())], ["weights", "bias"]).manifest
    outcome = packed_result(([np.ones(2), np.ones(())], {}), trained_from, 1, {})
    assert outcome.model.manifest == trained_from


def test_too_many_arrays_are_counted_not_named() -> None:
    trained_from = Model.from_arrays([np.zeros(2)], ["weights"]).manifest
    with pytest.raises(
        ConfigError, match=r"the number of arrays that .* returns is 2; allowed: 1, as many as were passed in"
    ):
        packed_result(([np.ones(2), np.ones(2)], {}), trained_from, 1, {})


def test_an_array_that_is_not_like_the_one_passed_in_is_named() -> None:
    trained_from = Model.from_arrays([np.zeros(2), np.zeros(())], ["weights", "bias"]).manifest
    with pytest.raises(
        ConfigError, match=r"array 1 \('bias'\) that .* is 'float64\[1\]'; allowed: float64\[\], as it was"
    ):
        packed_result(([np.ones(2), np.ones(1)], {}), trained_from, 1, {})


def test_the_text_of_an_error_has_no_colours() -> None:
    error = ValueError("\x1b[1mInput 0 of layer 'dense' is incompatible\x1b[0m: \x1b[38;5;1mred\x1b[m\x1b[2J")
    assert text_of(error) == r"Input 0 of layer 'dense' is incompatible: red\x1b[2J"


@pytest.mark.parametrize("kind", [Adds, AddsOnLoop])
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (
            {"train_params": {"metrics": ["loss", "auc", "f1"]}},
            "the metrics of train() is ['loss']; allowed: also auc, f1, which config['metrics'] asks for",
        ),
        (
            {"train_params": {"metadata": ["num_training_examples", "a"]}},
            "the metadata of train() is ['num_training_examples']; allowed: also a, which config['metadata'] asks for",
        ),
        (
            {"eval_params": {"metrics": ["loss"]}},
            "evaluate() is ['accuracy']; allowed: also loss, which config['metrics'] asks for",
        ),
    ],
)
async def test_a_result_without_what_its_task_asks_for_does_not_count(
    kind: type[Adds], asked: dict[str, dict[str, Json]], why: str
) -> None:
    config = ControllerConfig(max_failed_rounds=1, **asked)  # type: ignore[arg-type]
    session = session_of([kind(1)], rounds=1, config=config)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(session.run(), return_exceptions=True)  # without training there is no round
    assert session.result is not None
    (failure,) = session.result.rounds[0].learners["learner-0"].failures
    assert (failure.type, failure.message) == ("ConfigError", why)


async def test_a_result_with_more_than_its_task_asks_for_counts() -> None:
    config = ControllerConfig(
        train_params={"metrics": ["loss"], "metadata": ["num_training_examples"]}, eval_params={"metrics": []}
    )
    learner = Adds(1)
    result = await session_of([learner], rounds=1, config=config).run()
    assert not result.rounds[0].learners["learner-0"].failures
    assert learner.configs == [{"round_number": 1, **config.train_params}]
