"""What learners measured, as a part of a protobuf message, and back."""

from __future__ import annotations

from collections.abc import Mapping

from metisfl_async.core import messages as m
from metisfl_async.core.ids import TaskId
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.strategies.aggregation.contributors import MOST_CONTRIBUTORS, Contributor
from metisfl_async.transport._proto import metisfl_pb2 as pb

__all__ = ["evaluated_in", "packed_evaluated"]


def packed_evaluated(said: m.Evaluated) -> pb.Evaluated:
    packed = pb.Evaluated(task_id=said.task_id, metrics=said.metrics)
    for name, each in said.contributors.items():
        entry = pb.Contributor(metrics=each.metrics, weight=each.weight, num_learners=each.num_learners)
        packed.contributors[name].CopyFrom(entry)
    return packed


def evaluated_in(p: pb.Evaluated) -> m.Evaluated:
    if len(p.contributors) > MOST_CONTRIBUTORS:
        raise ValueError(f"{len(p.contributors)} contributors; at most {MOST_CONTRIBUTORS}")
    contributors = {
        name: Contributor(each.weight, each.num_learners or 1, _ordered(each.metrics))
        for name, each in sorted(p.contributors.items())
    }
    return m.Evaluated(TaskId(p.task_id), _ordered(p.metrics), contributors)


def _ordered(metrics: Mapping[str, float]) -> Metrics:
    return dict(sorted(metrics.items()))  # maps have no order
