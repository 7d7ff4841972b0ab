"""The spans are those that the SDK exports."""

from __future__ import annotations

import time

from federations import Adds, session_of
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.tracking import (
    OpenTelemetry,
)


class Fails(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        raise OSError("disk full")


class Traces(Adds):
    """Makes a span of its own, as a learner in another process would: from `traceparent` alone."""

    def __init__(self, number: int, provider: TracerProvider) -> None:
        super().__init__(number)
        self.tracer = provider.get_tracer("mine")

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        context = TraceContextTextMapPropagator().extract({"traceparent": self.traceparent})
        with self.tracer.start_as_current_span("epoch", context):
            return super().train(parameters, config)


async def test_spans_are_those_of_the_records_and_a_learners_own_join() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = time.time_ns()
    session = session_of([Traces(1, provider), Adds(2), Fails(3)], rounds=2)
    result = await session.run(watch=[OpenTelemetry(provider)])
    spans = exporter.get_finished_spans()
    by_id = {context_of(span).span_id: span for span in spans}
    assert len(by_id) == len(spans)
    (root,) = [span for span in spans if span.parent is None]
    assert {context_of(span).trace_id for span in spans} == {int(str(attribute(root, "metisfl.federation_id")), 16)}
    assert sorted(path_of(span, by_id) for span in spans if "round 1" in path_of(span, by_id)) == [
        "federation > round 1",
        "federation > round 1 > learner-0",
        "federation > round 1 > learner-0 > evaluate",
        "federation > round 1 > learner-0 > fetch",
        "federation > round 1 > learner-0 > fold",
        "federation > round 1 > learner-0 > train",
        "federation > round 1 > learner-0 > train > epoch",
        "federation > round 1 > learner-0 > upload",
        "federation > round 1 > learner-1",
        "federation > round 1 > learner-1 > evaluate",
        "federation > round 1 > learner-1 > fetch",
        "federation > round 1 > learner-1 > fold",
        "federation > round 1 > learner-1 > train",
        "federation > round 1 > learner-1 > upload",
        "federation > round 1 > learner-2",
        "federation > round 1 > learner-2 > evaluate",
    ]
    failed = {span.name for span in spans if span.status.status_code is StatusCode.ERROR}
    assert failed == {"learner-2"}
    for span in spans:
        assert before <= began(span) <= ended(span) <= time.time_ns()
        if span.parent is not None and span.name != "epoch":
            parent = by_id[span.parent.span_id]
            assert began(parent) - 1000 <= began(span) <= ended(span) <= ended(parent) + 1000
    (train,) = [span for span in spans if path_of(span, by_id) == "federation > round 2 > learner-1 > train"]
    assert f"{context_of(train).span_id:016x}" == result.rounds[1].learners["learner-1"].train_task_id[:16]


def began(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return int(span.start_time)


def ended(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return int(span.end_time)


def context_of(span: ReadableSpan):  # type: ignore[no-untyped-def]
    return span.context


def attribute(span: ReadableSpan, name: str) -> object:
    assert span.attributes is not None
    return span.attributes[name]


def path_of(span: ReadableSpan, by_id: dict[int, ReadableSpan]) -> str:
    return span.name if span.parent is None else f"{path_of(by_id[span.parent.span_id], by_id)} > {span.name}"
