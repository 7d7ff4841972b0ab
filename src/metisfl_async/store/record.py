"""What is kept beside a model's bytes, as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import DTYPES, Array, Manifest, Model, allocate
from metisfl_async.store.base import Stored

__all__ = ["Record", "bytes_of", "check_arrays", "record_of"]


@dataclass(frozen=True, slots=True)
class Record:
    """Everything about a stored model but its bytes."""

    manifest: Manifest
    version: int
    weight: float
    task_id: str

    @classmethod
    def from_text(cls, text: str | bytes) -> Record:
        facts = json.loads(text)
        laid_out = Manifest.lay_out([(name, dtype, tuple(shape)) for name, dtype, shape in facts["tensors"]])
        manifest = Manifest(laid_out.tensors, tuple(facts.get("untrained", ())))
        return cls(manifest, facts["version"], facts["weight"], facts["task_id"])

    def make(self) -> Stored:
        """Make the model with room for the tensors' bytes; those between the tensors are zero."""
        model = Model(self.manifest, allocate(self.manifest.size_bytes), self.version)
        model.buffer[self.manifest.padding] = 0
        return Stored(model, self.weight, self.task_id)


def record_of(manifest: Manifest, version: int = 0, weight: float = 1.0, task_id: str = "") -> str:
    """Write down a model's manifest and facts."""
    tensors = [[spec.name, spec.dtype, spec.shape] for spec in manifest.tensors]
    facts = {"version": version, "weight": float(weight), "task_id": task_id, "tensors": tensors}
    return json.dumps(facts | ({"untrained": manifest.untrained} if manifest.untrained else {}))


def check_arrays(model: Model | None, arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that cannot be kept."""
    if arrays and model is None:
        raise ConfigError("arrays", sorted(arrays), "none without a model")
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise ConfigError(f"array {name!r}", str(array.dtype), f"a NumPy array of {', '.join(DTYPES)}")


def bytes_of(array: Array) -> memoryview:
    """View an array without gaps as bytes, whatever its dtype and shape."""
    return array.reshape(-1).view(np.uint8).data
