"""Federations in virtual time whose parties write a history, as those of `durability` do that are processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from durability.history import History, Line, Pages, history_of
from durability.parties import RecordingPart, first_weights, trained_from, written_down
from durability.soak import replayed

from metisfl_async import ControllerConfig, FederationResult
from metisfl_async.core.model import Array
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.testing import FakeLearner, Federation

__all__ = ["Recorded", "Trains", "wrong"]


class Trains(FakeLearner):
    """Makes of a model what only its number decides, after a while."""

    def __init__(self, number: int, takes: float) -> None:
        super().__init__(first_weights(), takes=takes, num_training_examples=number)
        self._number = number

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:
        await super().train(parameters, config)
        assert isinstance(self.takes, float)
        speed = {"processing_ms_per_batch": self.takes * 100.0, "processing_ms_per_epoch": self.takes * 1000.0}
        return trained_from(parameters, self._number), {}, speed


class Recorded(Federation):
    """Writes down what its controller and learners do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lines: list[Line] = []

    @property
    def history(self) -> History:
        return history_of(self._lines)

    @contextmanager
    def written_down(self) -> Iterator[None]:
        with ExitStack() as stack:
            for (owner, name), writing in written_down(Pages(self._lines, "controller")).items():
                stack.enter_context(mock.patch.object(owner, name, writing))
            yield

    async def _open(self, *, resume: bool) -> None:
        Pages(self._lines, "controller").write("starts")
        await super()._open(resume=resume)

    def _client(self, name: str) -> LearnerClient:
        pen = Pages(self._lines, name)
        pen.write("starts")
        client, part = super()._client(name), RecordingPart(pen)
        client._part, part.client = part, client
        return client


def wrong(fed: Recorded, result: FederationResult, config: ControllerConfig, steady: set[str]) -> list[str]:
    """Say what must not be so; what `steady` learners trained is lost to nobody."""
    history = fed.history
    problems = history.check(result.rounds)
    problems += [
        f"{line['task']} of {line['who']} is lost: {line['why']}" for line in history.lost() if line["who"] in steady
    ]
    assert result.final_model is not None
    if not problems and (final := result.final_model[0].tolist()) != (expected := replayed(history, config)):
        problems.append(f"the final model is {final}, not {expected}")
    return problems
