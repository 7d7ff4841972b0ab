"""Spans of a federation: federation > round > learner > fetch, train, upload, fold, evaluate."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metisfl_async.core.federation.events import Event, FederationFinished, FederationStarted, RoundFinished
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.ids import TaskId, span_id_of
from metisfl_async.driver.result import FederationResult
from metisfl_async.tracking.names import ended_at, of_learner, of_round
from metisfl_async.tracking.tracker import Tracker, package

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["OpenTelemetry"]


class OpenTelemetry(Tracker):
    """Makes spans from the times that are in the records. Needs ``pip install opentelemetry-sdk``.

    The trace's id is the federation's. A learner's spans join its training: `Learner.traceparent` is their parent, also
    in another process or on another machine. "fetch" lasts from the acknowledgement of the task until the model was
    sent, "train" from then to the first byte of the update.

    Parameters
    ----------
    tracer_provider : opentelemetry.sdk.trace.TracerProvider
        Where the spans go.
    """

    def __init__(self, tracer_provider: TracerProvider) -> None:
        self._trace = package("opentelemetry.trace", "OpenTelemetry", "opentelemetry-sdk")
        self._tracer = copy.copy(tracer_provider.get_tracer("metisfl_async"))  # another id generator, and for us alone
        self._ids = self._tracer.id_generator = _Ids()

    def open(self) -> None:
        self._root: Any = None
        self._ended_at = 0.0

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case FederationStarted(federation_id, started_at=started_at) if self._root is None:
                    self._ids.trace_id, self._ended_at = int(federation_id, 16), started_at
                    self._root = self._begin("federation", None, started_at, {"metisfl.federation_id": federation_id})
                case RoundFinished(record) if self._root is not None:
                    self._note(record)
                case FederationFinished(reason, is_failure) if self._root is not None:
                    self._root.set_attribute("metisfl.reason", reason)
                    if is_failure:
                        self._root.set_status(self._trace.StatusCode.ERROR, reason)

    def close(self, result: FederationResult | None) -> None:
        if self._root is not None:
            self._root.end(_ns(self._ended_at))

    def _note(self, record: RoundRecord) -> None:
        unit, self._ended_at = "round" if record.in_rounds else "model", max(self._ended_at, ended_at(record))
        of = self._begin(f"{unit} {record.number}", self._root, record.started_at, of_round(record))
        for learner, part in record.learners.items():
            self._note_learner(learner, part, of, record)
        if not record.is_published:
            of.set_status(self._trace.StatusCode.ERROR, record.failure or "no model was published")
        of.end(_ns(ended_at(record)))

    def _note_learner(self, learner: str, part: LearnerRecord, of_round: Any, record: RoundRecord) -> None:
        zero = record.started_at - record.started_ms / 1e3  # what the record's milliseconds count from
        at = part.sent_ms
        if at is None or part.ended_ms is None:
            return
        facts = {"metisfl.learner": learner, "metisfl.state": part.train_state, **of_learner(part)}
        whole = self._begin(learner, of_round, zero + at / 1e3, facts)
        at += part.acknowledge_ms or 0.0
        fetch_ms = None if part.fetch_ms is None or part.train_ms is None else min(part.fetch_ms, part.train_ms)
        train_ms = None if part.train_ms is None else part.train_ms - (fetch_ms or 0.0)
        steps = ("fetch", fetch_ms), ("train", train_ms), ("upload", part.staging_ms), ("fold", part.aggregation_ms)
        for name, ms in steps:
            if ms is not None:
                task_id = part.train_task_id if name == "train" else ""
                step = self._begin(name, whole, zero + at / 1e3, task_id=task_id)
                at += ms
                step.end(_ns(zero + at / 1e3))
        end = max(at, part.ended_ms)
        if part.evaluation_sent_ms is not None and part.evaluation_ms is not None:
            began, evaluated = part.evaluation_sent_ms, part.evaluation_sent_ms + part.evaluation_ms
            task = self._begin("evaluate", whole, zero + began / 1e3, task_id=part.evaluation_task_id)
            task.end(_ns(zero + evaluated / 1e3))
            end = max(end, evaluated)
        for failure in part.failures:
            whole.set_status(self._trace.StatusCode.ERROR, f"{failure.task}: {failure.type}: {failure.message}")
        whole.end(_ns(zero + end / 1e3))

    def _begin(
        self, name: str, parent: Any, at: float, attributes: dict[str, Any] | None = None, task_id: str = ""
    ) -> Any:
        self._ids.span_id = int(span_id_of(TaskId(task_id)), 16) if task_id else 0
        context = None if parent is None else self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context, attributes=attributes, start_time=_ns(at))


class _Ids:
    """Gives the ids that are known on the learners' side as well; others are random."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def is_trace_id_random(self) -> bool:
        return True

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        span_id, self.span_id = self.span_id, 0
        return span_id or secrets.randbits(64) or 1


def _ns(at: float) -> int:
    return int(at * 1e9)
