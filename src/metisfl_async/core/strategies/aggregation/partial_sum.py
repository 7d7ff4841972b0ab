"""Several learners' updates in one: a weighted sum of them, and who contributed what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Manifest
from metisfl_async.core.strategies.aggregation.arithmetic import Floats, Sum
from metisfl_async.core.strategies.aggregation.resemblance import Portrait

__all__ = ["Contribution", "PartialSum"]


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
    parts: Sequence[Floats]  #: float64; of a `Sum`, one array for each run of the manifest
    contributions: tuple[Contribution, ...]
    form: type[Sum] = Sum  #: whose `parts` they are

    @property
    def weight(self) -> float:
        """``sum(s_k)``."""
        return sum(contribution.weight for contribution in self.contributions)

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def unfit(self) -> str | None:
        """Say what is wrong with it; None if a rule can take it."""
        return self.form(self.manifest).problem_of(self.parts, len(self.contributions))
