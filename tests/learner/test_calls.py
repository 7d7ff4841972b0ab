"""A learner works on a copy that becomes its update: without a second copy, unless somebody else has the first one."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from federations import Adds

from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Model, allocate
from metisfl_async.learner import calls
from metisfl_async.learner.learner import Config, TrainResult

SIZE = 100_000
Give: TypeAlias = Callable[["Gives", list[Array]], list[Array]]


class Gives(Adds):
    """Adds one to the first tensor, keeps something, and gives something."""

    def __init__(self, give: Give) -> None:
        super().__init__(1, SIZE)
        self.give = give
        self.kept: object = None

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        parameters[0] += 1
        return self.give(self, parameters), {}

    def set_weights(self, parameters: list[Array]) -> None:
        self.give(self, parameters)

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        self.give(self, parameters)
        return {}


def keep(what: Callable[[list[Array]], object]) -> Give:
    def give(learner: Gives, parameters: list[Array]) -> list[Array]:
        learner.kept = what(parameters)
        return parameters

    return give


def base() -> Model:
    return Model.from_arrays([np.zeros(SIZE, np.float32), np.array(7)])


NOBODY_KEEPS: dict[str, Give] = {
    "what it was given": lambda learner, parameters: parameters,
    "another list": lambda learner, parameters: list(parameters),
    "views of them": lambda learner, parameters: [array.view() for array in parameters],
    "copies": lambda learner, parameters: [array.copy() for array in parameters],
}
SOMEBODY_KEEPS: dict[str, Give] = {
    "the list": keep(lambda parameters: parameters),
    "an array": keep(lambda parameters: parameters[1]),
    "a slice": keep(lambda parameters: parameters[0][10:20]),
    "a slice as another dtype": keep(lambda parameters: parameters[0][10:20].view(np.int8)),
    "a memoryview": keep(lambda parameters: parameters[0].data),
    "a thread's argument": keep(lambda parameters: threading.Thread(target=print, args=(parameters[0],))),
    "the memory's owner": keep(lambda parameters: parameters[0].base),
}
IN_OTHER_PLACES: dict[str, Give] = {
    "a part of them": lambda learner, parameters: [parameters[0], parameters[1].copy()],
    "backwards": lambda learner, parameters: [parameters[0][::-1], parameters[1]],
}


@pytest.mark.parametrize("give", NOBODY_KEEPS.values(), ids=NOBODY_KEEPS)
def test_the_copy_becomes_the_update(give: Give) -> None:
    room = allocate(base().manifest.size_bytes)
    trained = calls.train(Gives(give), base(), {}, room)
    assert trained.model.buffer is room
    assert (trained.model.arrays()[0] == 1).all()
    assert trained.model.arrays()[1] == 7


@pytest.mark.parametrize("give", [*SOMEBODY_KEEPS.values(), *IN_OTHER_PLACES.values()])
def test_what_somebody_keeps_is_not_the_update(give: Give) -> None:
    room, learner = allocate(base().manifest.size_bytes), Gives(give)
    trained = calls.train(learner, base(), {}, room)
    assert not np.shares_memory(trained.model.buffer, room)
    room[:] = 0xFF  # as the learner might, who has it
    assert (trained.model.arrays()[0] == 1).all()
    assert trained.model.arrays()[1] == 7
    assert not trained.model.buffer[trained.model.manifest.padding].any()


def test_the_first_copy_becomes_an_update_too() -> None:
    model, learner = base(), Gives(NOBODY_KEEPS["what it was given"])
    tracemalloc.start()
    trained = calls.train(learner, model, {}, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (trained.model.arrays()[0] == 1).all()
    assert peak < 1.1 * model.manifest.size_bytes


def test_evaluating_and_taking_over_weights_give_their_memory_back() -> None:
    room, learner = allocate(base().manifest.size_bytes), Gives(NOBODY_KEEPS["copies"])
    assert calls.evaluate(learner, base(), {}, room)[1] is room
    assert calls.evaluate(learner, base(), {}, None)[1] is None
    assert calls.set_weights(learner, base(), room) is room
    assert calls.set_weights(learner, base(), None) is None


@pytest.mark.parametrize("give", SOMEBODY_KEEPS.values(), ids=SOMEBODY_KEEPS)
def test_where_something_is_kept_they_do_not(give: Give) -> None:
    learner, room = Gives(give), allocate(base().manifest.size_bytes)
    assert calls.evaluate(learner, base(), {}, room)[1] is None
    room = allocate(base().manifest.size_bytes)
    assert calls.set_weights(learner, base(), room) is None
