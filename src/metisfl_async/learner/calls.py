"""One call of a learner's method each: global weights go in as copies, in its order; what it gives comes out packed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metisfl_async.core.metrics import checked_json
from metisfl_async.core.model import Bytes, Manifest, Model, allocate, is_alone
from metisfl_async.learner.askable import method_of, packed_answer
from metisfl_async.learner.learner import Config, Learner, examples_of
from metisfl_async.learner.outcome import Measured, Trained, checked_evaluation, order_of, packed_result, packed_weights

__all__ = ["ask", "copied", "evaluate", "get_weights", "own", "pack_result", "pack_weights", "set_weights", "train"]


def get_weights(learner: Learner) -> Model:
    return pack_weights(learner, learner.get_weights())


def set_weights(learner: Learner, model: Model, again: Bytes | None) -> Bytes | None:
    """Hand over a copy; if it was made in a buffer of before, and the learner keeps nothing of it, give that back."""
    room = allocate(len(model.buffer), again)
    learner.set_weights(copied(learner, model, room))
    return _free(room, again)


def own(config: Config) -> Config:
    """Copy what others may share in this process; a learner may change its own."""
    copy = checked_json(config, "config")
    assert isinstance(copy, dict)
    return copy


def train(learner: Learner, model: Model, config: Config, again: Bytes | None) -> Trained:
    """Train on a copy, which becomes the update where nobody else has it, so that there is no second one."""
    room = allocate(len(model.buffer), again)
    parameters = copied(learner, model, room)
    result = learner.train(parameters, own(config))
    del parameters
    trained = pack_result(learner, result, model.manifest, config, room)
    del result
    if trained.model.buffer is room and not is_alone(room):  # the learner keeps what it has given
        trained = replace(trained, model=Model.filled(model.manifest, trained.model.arrays()))
    return trained


def evaluate(learner: Learner, model: Model, config: Config, again: Bytes | None) -> tuple[Measured, Bytes | None]:
    """Evaluate a copy; if it was made in a buffer of before, and the learner keeps nothing of it, give that back."""
    room = allocate(len(model.buffer), again)
    measured = checked_evaluation(learner.evaluate(copied(learner, model, room), own(config)), config)
    return measured, _free(room, again)


def _free(room: Bytes, again: Bytes | None) -> Bytes | None:
    """Give the room of a copy, if it is to be used again and nobody else has it."""
    return room if again is not None and is_alone(room) else None


def ask(learner: Learner, method: str, params: Config) -> str:
    return packed_answer(method, method_of(learner, method)(own(params)))


def copied(learner: Learner, model: Model, again: Bytes | None = None) -> list[Any]:
    """Copy the tensors for a learner, in its order."""
    arrays, order = model.copies(again), order_of(learner.weight_names(), model.manifest)
    return arrays if order is None else [arrays[place] for place in order]


def pack_weights(learner: Learner, weights: object) -> Model:
    return packed_weights(weights, names=learner.weight_names(), untrained=learner.untrained_names())


def pack_result(
    learner: Learner, result: object, manifest: Manifest, config: Config, room: Bytes | None = None
) -> Trained:
    order = order_of(learner.weight_names(), manifest)
    if order is not None and isinstance(result, tuple) and result and isinstance(result[0], list | tuple):
        places = {place: mine for mine, place in enumerate(order) if mine < len(result[0])}
        arrays = [result[0][mine] for _, mine in sorted(places.items())]
        result = (arrays, *result[1:])
    return packed_result(result, manifest, examples_of(learner), config, room)
