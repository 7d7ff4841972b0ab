"""TreeBagging: each round's trees of all learners join the model."""

from __future__ import annotations

import numpy as np

from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Array, Manifest, Model, allocate
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["LEAF_VALUES", "NUM_NEW", "NUM_TREES", "TreeBagging"]

NUM_TREES = "num_trees"  #: how many trees of the room there is are the global model's
NUM_NEW = "num_new"  #: how many trees behind those an update adds; 0 in a global model
LEAF_VALUES = "value"


class TreeBagging(AggregationRule):
    """Adds the trees that learners grew in a round to the global model; leaf values times the learner's share.

    Trees of all learners were grown on the same model, each on its own data, so their sum would be as many times too
    large as there are learners. With the share ``s_k / sum(s_k)`` of each, what is added is the mean of what they add.

    Models are those of `XGBoostLearner`: two numbers, "num_trees" and "num_new", and tensors with a row for each tree
    that there is room for, of which "value" has the leaves'. Since models keep their size from round to round, the
    room is made at the start; when it is full, no further model is made.
    """

    in_rounds = True  # an update's trees stand behind those of the model that all were asked to go on from
    takes_rounded = False  # a threshold that is rounded is another question

    def start(self, model: Model) -> None:
        self._latest = model
        self._room = _room_of(model.manifest)
        self.discard()

    def fold(self, update: Update) -> None:
        if not self._room:
            names = ", ".join(self._latest.manifest.names[:20])
            raise ConfigError("the model's tensors", names, "those of XGBoostLearner, for TreeBagging")
        base, given = _named(self._latest), _named(update.model)
        held, new = int(given[NUM_TREES]), int(given[NUM_NEW])
        count = int(base[NUM_TREES])
        if held != count:
            raise ConfigError("num_trees of an update", held, f"{count}, as in the global model")
        if not 0 <= new <= self._room - count:
            raise ConfigError("num_new of an update", new, f"0 to {self._room - count}, the room that is left")
        rows = {name: array[count : count + new].copy() for name, array in given.items() if array.ndim}
        self._grown[update.learner] = update.weight, new, rows

    def aggregate(self, version: int) -> Model:
        model = Model(self._latest.manifest, allocate(len(self._latest.buffer)), version)
        model.buffer[:] = self._latest.buffer
        arrays = _named(model)
        total = sum(weight for weight, _, _ in self._grown.values())
        count = int(arrays[NUM_TREES])
        needed = count + sum(new for _, new, _ in self._grown.values())
        if needed > self._room:
            raise NoModel(f"{needed} trees do not fit into the model, which has room for max_trees={self._room}")
        for learner in sorted(self._grown):  # so that nothing depends on who came first
            weight, new, rows = self._grown[learner]
            for name, grown in rows.items():
                arrays[name][count : count + new] = grown * np.float32(weight / total) if name == LEAF_VALUES else grown
            count += new
        arrays[NUM_TREES][...] = count
        self._latest = model
        self.discard()
        return model

    def discard(self) -> None:
        self._grown: dict[LearnerId, tuple[float, int, dict[str, Array]]] = {}


def _room_of(manifest: Manifest) -> int:
    """Say how many trees a model has room for; 0 if it is none of trees."""
    rows = {spec.shape[0] for spec in manifest.tensors if spec.shape}
    numbers = {spec.name for spec in manifest.tensors if not spec.shape}
    is_of_trees = numbers == {NUM_TREES, NUM_NEW} and LEAF_VALUES in manifest.names and len(rows) == 1
    return rows.pop() if is_of_trees else 0


def _named(model: Model) -> dict[str, Array]:
    return dict(zip(model.manifest.names, model.arrays(), strict=True))
