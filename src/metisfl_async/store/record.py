"""What is kept beside a model's bytes, as JSON text."""

from __future__ import annotations

import json

from metisfl_async.core.model import Manifest, Model, allocate
from metisfl_async.store.base import Stored

__all__ = ["record_of", "stored_of"]


def record_of(model: Model, weight: float) -> str:
    """Write down a model's version, manifest and weight."""
    tensors = [[spec.name, spec.dtype, spec.shape] for spec in model.manifest.tensors]
    return json.dumps({"version": model.version, "weight": float(weight), "tensors": tensors})


def stored_of(record: str | bytes) -> Stored:
    """Make a model as a record says, with room for the tensors' bytes; those between the tensors are zero."""
    facts = json.loads(record)
    manifest = Manifest.lay_out([(name, dtype, tuple(shape)) for name, dtype, shape in facts["tensors"]])
    model = Model(manifest, allocate(manifest.size_bytes), facts["version"])
    model.buffer[manifest.padding] = 0
    return Stored(model, facts["weight"])
