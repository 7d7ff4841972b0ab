"""Values of a model that are infinite from the beginning and stay so, as those of a causal mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.model import DTYPES, Array, Model, allocate

__all__ = ["Infinities"]


@dataclass(frozen=True, slots=True)
class Infinities:
    """Where a global model is infinite. Rules see zeros there, with which they can compute."""

    places: list[tuple[int, NDArray[np.int64], Array]]  #: tensors by number, with which elements, and what those are

    @classmethod
    def of(cls, model: Model) -> Infinities | None:
        """Find them; None if there are none."""
        places = []
        for number, values in enumerate(model.arrays()):
            if DTYPES[model.manifest.tensors[number].dtype].kind not in "iub":
                found = np.flatnonzero(np.isinf(values))
                if len(found):
                    places.append((number, found, values.reshape(-1)[found]))
        return cls(places) if places else None

    def clear(self, model: Model) -> None:
        """Make zeros of them; also of what is a number in one model and infinite in the others. All else stays."""
        arrays = model.arrays()
        for number, found, infinite in self.places:
            values = arrays[number].reshape(-1)
            values[found] = np.where(np.isfinite(values[found]) | (values[found] == infinite), 0, values[found])

    def restore(self, model: Model) -> None:
        """Make them infinite again."""
        arrays = model.arrays()
        for number, found, infinite in self.places:
            arrays[number].reshape(-1)[found] = infinite

    def without(self, model: Model) -> Model:
        """Copy a model with zeros there."""
        copy = _copy(model)
        self.clear(copy)
        return copy.freeze()

    def within(self, model: Model) -> Model:
        """Copy a model with them in it."""
        copy = _copy(model)
        self.restore(copy)
        return copy


def _copy(model: Model) -> Model:
    copy = Model(model.manifest, allocate(len(model.buffer)), model.version)
    copy.buffer[:] = model.buffer
    return copy
