"""Several learners' updates in one: a weighted sum of them, and who contributed what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Array, Bytes, Manifest, Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import Floats, blocks, write_rounded
from metisfl_async.core.strategies.aggregation.resemblance import Portrait
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["Contribution", "PartialSum", "mean_of", "packed_sum", "sum_manifest", "sum_parts"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """One learner's share in an update, beside the weights of its model."""

    learner: LearnerId
    task_id: TaskId
    weight: float  #: the scaling factor ``s_k``
    seen: Portrait  #: what the learner's own update is like
    metrics: Metrics = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class PartialSum:
    """``sum(s_k * w_k)`` over its contributions, all trained from one global model.

    It is a sum and not a mean: rounded to the model's dtype, the mean of means is not the mean.
    """

    manifest: Manifest
    version: int  #: of the global model that all were trained from
    parts: Sequence[Floats]  #: float64, one array for each run of the manifest
    contributions: tuple[Contribution, ...]

    @property
    def weight(self) -> float:
        """``sum(s_k)``."""
        return sum(contribution.weight for contribution in self.contributions)

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def unfit(self) -> str | None:
        """Say what is wrong with it; None if a rule can take it."""
        counts = [run.count for run in self.manifest.runs]
        if [part.shape for part in self.parts] != [(count,) for count in counts]:
            shapes = ", ".join(str(part.shape) for part in self.parts)
            return f"the sum has parts of shapes {shapes}, and the global model has {counts} elements in its runs"
        if not all(np.isfinite(part[block]).all() for part in self.parts for block in blocks(len(part))):
            return "the sum holds a value that is not finite"
        return None


def sum_manifest(manifest: Manifest) -> Manifest:
    """Lay out a sum of such models as a model: the same tensors, in float64."""
    return Manifest.lay_out([(spec.name, "float64", spec.shape) for spec in manifest.tensors])


def packed_sum(
    parts: Sequence[Floats], of: Manifest, manifest: Manifest, version: int, *, again: Bytes | None = None
) -> Model:
    """Copy the parts of a sum of models `of` this manifest into one buffer, as `manifest` lays it out."""
    tensors = [
        parts[number][place].reshape(spec.shape) for spec, (number, place) in zip(of.tensors, of.parts, strict=True)
    ]
    return Model.filled(manifest, tensors, version=version, again=again)


def sum_parts(packed: Model, of: Manifest) -> list[Floats]:
    """Copy a sum of models `of` this manifest out of its buffer, into one array for each run of theirs."""
    parts: list[Floats] = [np.zeros(run.count, np.float64) for run in of.runs]
    for (number, place), tensor in zip(of.parts, packed.arrays(), strict=True):
        parts[number][place] = tensor.reshape(-1)
    return parts


def mean_of(parts: Sequence[Floats], weight: float, manifest: Manifest, version: int) -> Model:
    """Make ``sum(s_k * w_k) / sum(s_k)`` a model, each tensor in its own dtype; it need not be finite there."""
    model = Model(manifest, allocate(manifest.size_bytes), version)
    for run, part in zip(manifest.runs, parts, strict=True):
        spread(partial(_divide, part, weight, run.of(model.buffer)), len(part))
    model.buffer[manifest.padding] = 0
    return model


def _divide(part: Floats, weight: float, out: Array, within: slice) -> None:
    for block in blocks(within.stop, within.start):
        write_rounded(out[block], part[block] / weight)
